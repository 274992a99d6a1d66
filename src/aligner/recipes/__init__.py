"""Recipes: whole experiments that call the rooms' `run` functions, as a user could from the command line."""
