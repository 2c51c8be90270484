"""One module per recipe: ``python -m latpix.training.recipes.NAME`` runs it."""
