"""What makes the golden files of `hmr.published`: each script runs its authors' own code, which is no part of us.

They need einops. `fetched` takes the code from a clone; only what a script imports of it is run, with stand-ins for
what that does not need.
"""
