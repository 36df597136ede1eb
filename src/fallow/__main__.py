"""Lets `python -m fallow` be the command `fallow`."""

from fallow.main import main

if __name__ == "__main__":
    main()
