"""What makes the golden files of `hmr.published`: each script runs its authors' own code, which is no part of us.

`fetched` takes it from a clone; only what a script imports of it is run, with stand-ins for what that does not need.
"""
