"""Where runs take place: by name, classes that follow `work.Executor`, created with jobs, device and threads."""

from .local import Local
from .ray import Ray

EXECUTORS = {"local": Local, "ray": Ray}
