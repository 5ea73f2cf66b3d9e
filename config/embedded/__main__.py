import sys
from pathlib import Path

from config.embedded.supervisor import supervise

supervise(sys.argv[1], Path(sys.argv[2]))
