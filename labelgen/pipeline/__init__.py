"""Functions for the command line and Python users: `build`, `work`, `add`, `append`, `plan`, `status`, `verify`, ..."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labelgen.lazy import lazy_names

if TYPE_CHECKING:
    from labelgen.pipeline.building import build, resolve
    from labelgen.pipeline.changing import add, append
    from labelgen.pipeline.checking import plan, verify
    from labelgen.pipeline.working import work
    from labelgen.stages.estimate.cost import CostPlan
    from labelgen.stages.plan.check_names import check_names
    from labelgen.stages.report import BuildReport
    from labelgen.stages.running.status import Status, status

__all__ = [
    "BuildReport",
    "CostPlan",
    "Status",
    "add",
    "append",
    "build",
    "check_names",
    "plan",
    "resolve",
    "status",
    "verify",
    "work",
]

_PLACES = {
    "BuildReport": "labelgen.stages.report:BuildReport",
    "CostPlan": "labelgen.stages.estimate.cost:CostPlan",
    "Status": "labelgen.stages.running.status:Status",
    "add": "labelgen.pipeline.changing:add",
    "append": "labelgen.pipeline.changing:append",
    "build": "labelgen.pipeline.building:build",
    "check_names": "labelgen.stages.plan.check_names:check_names",
    "plan": "labelgen.pipeline.checking:plan",
    "resolve": "labelgen.pipeline.building:resolve",
    "status": "labelgen.stages.running.status:status",
    "verify": "labelgen.pipeline.checking:verify",
    "work": "labelgen.pipeline.working:work",
}

__getattr__, __dir__ = lazy_names(__name__, _PLACES)
