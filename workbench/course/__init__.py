"""The exercises of the notebooks: `check` compares an answer with a solution and names typical mistakes. May import nothing of
the package."""

from workbench.course.checking import Exercise, Verdict, check, judge
from workbench.course.exercises import EXERCISES

__all__ = ["EXERCISES", "Exercise", "Verdict", "check", "judge"]
