"""What tests of several packages share."""

import os

# Tests run many small kernels, beside whatever else the machine does: threads that wait for each other only slow them.
os.environ["OMP_NUM_THREADS"] = "1"
