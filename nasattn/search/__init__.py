"""Search: studies as values, samplers, and the loop that asks, evaluates and tells."""

from nasattn.search.run import Watcher, run_search
from nasattn.search.samplers import SAMPLERS
from nasattn.search.spec import StudySpec, load_study_spec
from nasattn.search.storage import open_study

__all__ = ["SAMPLERS", "StudySpec", "Watcher", "load_study_spec", "open_study", "run_search"]
