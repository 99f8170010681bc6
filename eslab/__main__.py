"""`python -m eslab` is `eslab`."""

from eslab.cli import main

main(prog_name="eslab")
