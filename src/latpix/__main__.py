"""``python -m latpix``: the command line, also under torchrun."""

from latpix.cli.main import main

if __name__ == "__main__":
    main()
