"""What a run takes where nothing is said. The command line shows it, so that no torch is waited for here."""

BATCH = 16  # crops that the network sees at once
STREAM_BATCH = 4  # of a stream: fewer people are filled up, more are seen in turn
EVERY = 10  # frames from one look of BlazePose at the whole picture to the next; people are followed between
PICTURES_FPS = 30.0  # of pictures in a folder, which have no times
