"""Adapters that ship: networks of public human mesh recovery, written here under their authors' keys, one file each.

Weights and bodies stay the user's own. A file of three lines names the checkpoint:

    from hmr.published.wilor import WiLoR

    class Mine(WiLoR):
        checkpoint = "pretrained_models/wilor_final.ckpt"
"""
