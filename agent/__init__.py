"""Everything that learns, loops or ships: the six parts' implementations, the trainer and the commands."""

import os

# Read by OpenMP when torch is loaded, which is later. Idle threads that spin instead of sleeping take the core that an
# environment process needs: with two threads on two cores an acting step took 50 ms instead of 12.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
