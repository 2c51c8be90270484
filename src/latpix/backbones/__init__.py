"""What makes latents of pictures, and turns them back at native size."""
