"""The import hook through which yolo_attn reaches Ultralytics.

Installed as a top-level module, beside a `.pth` file (for Python 3.15 and later a `.start` file) that arms the hook at
every interpreter start, including the child processes that Ultralytics launches. Arming imports nothing and prints
nothing, and an armed hook does nothing at all until somebody imports one of `TARGETS`. The `.pth` line holds a finder
of its own that imports this module only then: reading even a small module at each start costs more than that line.
YOLO_ATTN_AUTOLOAD=0 keeps the hook from arming.
"""

import sys

TARGETS = ("ultralytics.nn.tasks", "ultralytics.data.utils", "ultralytics.engine.trainer")


class Finder:
    """Lets the other finders find a target module, then hands its loader to `Loader`."""

    yolo_attn = True  # how copies of the hook (the .pth line's, another site folder's) recognise each other

    def find_spec(self, name, path=None, target=None):
        """Spec of a target module with its loader wrapped; None for everything else."""
        return find_spec(name, path, target) if name in TARGETS else None


def find_spec(name, path, target):
    """Spec of a target module, from whoever finds it, with its loader wrapped."""
    for finder in sys.meta_path:
        find = None if getattr(finder, "yolo_attn", False) else getattr(finder, "find_spec", None)
        spec = find(name, path, target) if find else None
        if spec is not None:
            if spec.loader is not None:
                spec.loader = Loader(spec.loader)
            return spec
    return None


class Loader:
    """Runs the real loader, then applies the patches; gone from the module afterwards."""

    def __init__(self, loader):
        self.loader = loader

    def __getattr__(self, name):
        """Whatever else the real loader has."""
        if name == "loader":
            raise AttributeError(name)
        return getattr(self.loader, name)

    def create_module(self, spec):
        """Leave the creation to the real loader."""
        return self.loader.create_module(spec)

    def exec_module(self, module):
        """Execute the module as if nobody were watching, then patch it."""
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        apply(module.__name__)


def arm():
    """Put one finder in front of `sys.meta_path`, unless one is there or YOLO_ATTN_AUTOLOAD is 0."""
    if "os" in sys.modules and sys.modules["os"].environ.get("YOLO_ATTN_AUTOLOAD") == "0":
        return
    install()


def install():
    """Put one finder in front of `sys.meta_path`, unless one is there."""
    if not any(getattr(finder, "yolo_attn", False) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())


def apply(target):
    """Patch the freshly imported `target`; Ultralytics goes on unpatched whatever happens here."""
    try:
        from yolo_attn import patches

        patches.apply(target)
    except Exception as e:
        if getattr(e, "name", None) == "yolo_attn":  # a package that is simply gone leaves nothing to say
            return
        import warnings

        warnings.warn(
            f"yolo_attn is installed but broken ({type(e).__name__}: {e}); Ultralytics runs without its blocks. "
            "Reinstall it, or set YOLO_ATTN_AUTOLOAD=0.",
            RuntimeWarning,
            stacklevel=2,
        )
