"""`--numa replicate`: a worker on each node, and the front that spreads requests over them."""

from __future__ import annotations

import json
import os
import signal
import threading
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from engine.front import Front
from engine.placement import Node
from engine.workers import Say, Workers
