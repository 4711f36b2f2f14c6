"""Build hook: an editable install gets the start-up files only.

An editable wheel points at the checkout for everything else; hatchling's force-include would copy cfg/ and patches/
into site-packages as well, where they would shadow the checkout's.
"""

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

START = "patches/startup/yolo_attn_boot"


class StartUpFiles(BuildHookInterface):
    """Places `yolo_attn_boot.{py,pth,start}` at the top of site-packages."""

    def initialize(self, version: str, build_data: dict) -> None:
        """Called by hatchling before a wheel is built; `version` is "editable" or "standard"."""
        if version == "editable":
            build_data["force_include_editable"] = {
                f"{self.root}/{START}.{ending}": f"yolo_attn_boot.{ending}" for ending in ("py", "pth", "start")
            }
