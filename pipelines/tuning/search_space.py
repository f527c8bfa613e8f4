"""What a search may try: a TOML file in the shape of the configuration, a range or choices for a setting."""

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from pipelines.config.config import Config
from pipelines.config.errors import InputError
from pipelines.config.loading import read_toml, validate_settings
from pipelines.config.section import Section

SEARCHED = ("space", "loss", "mining", "graph", "train", "spectral")  # sections that decide a training
Value = bool | int | float | str


class Setting(Section):
    """The values of one setting: choices, or all from low to high; whole numbers where the setting is one."""

    choices: tuple[Value, ...] | None = Field(None, min_length=1, description="the values there are")
    low: int | float | None = Field(None, description="the smallest value")
    high: int | float | None = Field(None, description="the largest value")
    step: int | float | None = Field(None, gt=0, description="between values; without it 1, or any number")
    log: bool = Field(False, description="as many values from 1 to 10 as from 10 to 100")

    @model_validator(mode="after")
    def _choices_or_range(self) -> "Setting":
        if (self.choices is None) == (self.low is None and self.high is None):
            raise ValueError("name either choices, or low and high")
        if self.choices is not None:
            if self.step is not None or self.log:
                raise ValueError("step and log are of low and high, not of choices")
            return self
        if self.low is None or self.high is None:
            raise ValueError("low and high go together")
        if self.low > self.high:
            raise ValueError(f"low = {self.low} must be <= high = {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log = true needs low > 0 (got {self.low})")
        if self.log and self.step is not None:
            raise ValueError("name step or log, not both")
        if self.step is not None and not _whole((self.high - self.low) / self.step):
            raise ValueError(f"high - low must be a multiple of step = {self.step}")
        return self

    def holds(self, value: Any) -> bool:
        """Whether a search could come upon the value."""
        if self.choices is not None:
            return any(type(value) is type(choice) and value == choice for choice in self.choices)
        if self.low is None or self.high is None or isinstance(value, bool):
            return False
        if not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        return self.step is None or _whole((value - self.low) / self.step)


Space = dict[str, Setting]  # by names such as train.learning_rate


def read_space(path: Path) -> Space:
    """The search space of a file, each of its values allowed by itself.

    Raises InputError: no such file, unknown setting (with its near match), one that no training depends on,
    a range or choice that the setting cannot take.
    """
    settings: Space = {}
    for section, tables in read_toml(path).items():
        where = f"search space '{path}'"
        if section not in SEARCHED:
            raise InputError(f"{where}: section '{section}', allowed: {', '.join(SEARCHED)}")
        if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
            raise InputError(f"{where}: '{section}' holds a table a setting, e.g. [train.learning_rate]")
        for key, table in tables.items():
            where = f"search space '{path}', {section}.{key}"
            settings[f"{section}.{key}"] = _fitting(
                validate_settings(Setting, table, where), section, key, where
            )
    if not settings:
        raise InputError(f"search space '{path}' has no settings, e.g. [train.learning_rate]")
    return settings


def _fitting(setting: Setting, section: str, key: str, where: str) -> Setting:
    """The setting with its ends as numbers of the configured kind."""
    model: Any = Config.model_fields[section].annotation
    ends = setting.choices if setting.choices is not None else (setting.low, setting.high)
    values = [getattr(validate_settings(model, {key: end}, where), key) for end in ends]
    if setting.choices is not None:
        return setting.model_copy(update={"choices": tuple(values)})
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        raise InputError(f"{where}: not a number: name choices, not low and high")
    if isinstance(values[0], int) and setting.step is not None and not isinstance(setting.step, int):
        raise InputError(f"{where}: step = {setting.step}: whole numbers have a whole step")
    return setting.model_copy(update={"low": values[0], "high": values[1]})


def _whole(quotient: float) -> bool:
    return abs(quotient - round(quotient)) < 1e-8  # as optuna rounds
