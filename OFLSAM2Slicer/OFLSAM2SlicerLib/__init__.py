"""What stands between the scene and the core: everything of the module but its panel.

Nothing here imports qt or ctk, and nothing here imports torch. `panel/` holds the panel's parts.
"""
