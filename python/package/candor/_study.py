"""Data sets, and vectors fitted to and measured on them: the program's ``fit``, ``eval``, ``sweep``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from . import _candor as native  # pyright: ignore[reportPrivateUsage]
from ._blocks import Floats, Positions
from ._candor import Vector
from ._model import Model
from ._progress import Bar, Progress

Direction = Literal["mass-mean", "probe", "random"]
Policy = Literal["generated", "all", "answer", "original"]

INSTRUCTION = "Answer truthfully."


class Dataset:
    """Labelled texts: questions with true and false answers, statements, or pairs.

    Parameters
    ----------
    path
        A file in one of the forms that the program reads: TruthfulQA's CSV, ``statement,label``,
        ``mc_task.json``, or JSON lines.

    Raises
    ------
    FileNotFoundError, OSError
        Where the file cannot be read.
    ValueError
        For what breaks the form, with the line.
    """

    def __init__(self, path: str | Path) -> None:
        self._native = native.Dataset(path)

    @classmethod
    def from_statements(
        cls, statements: Iterable[tuple[str, bool]], *, name: str = "statements"
    ) -> Dataset:
        """Statements, each true or false."""
        with io.StringIO() as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["statement", "label"])
            rows.writerows((text, int(bool(label))) for text, label in statements)
            return cls._of_bytes(f"{name}.csv", file.getvalue())

    @classmethod
    def from_questions(
        cls,
        questions: Iterable[tuple[str, Sequence[str], Sequence[str]]],
        *,
        name: str = "questions",
    ) -> Dataset:
        """Questions, each with its true and its false answers; the first true one is the best."""
        lines = [
            {"question": question, "true": list(true), "false": list(false)}
            for question, true, false in questions
        ]
        return cls._of_bytes(f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[str, str]], *, name: str = "pairs") -> Dataset:
        """Pairs of a positive and a negative text."""
        lines = [{"positive": positive, "negative": negative} for positive, negative in pairs]
        return cls._of_bytes(f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))

    @classmethod
    def _of_bytes(cls, name: str, text: str) -> Dataset:
        return cls._of(native.Dataset.from_bytes(name, text.encode()))

    @classmethod
    def _of(cls, data: native.Dataset) -> Dataset:
        made = cls.__new__(cls)
        made._native = data
        return made

    def limited(self, n: int) -> Dataset:
        """So many of the questions, spread evenly over all."""
        return self._of(self._native.limited(n))

    def __len__(self) -> int:
        """Questions (or statements, or pairs)."""
        return len(self._native)

    def __repr__(self) -> str:
        return f"<candor.Dataset {self.name}: {len(self)} {self.kind}>"

    @property
    def name(self) -> str:
        """The file's stem."""
        return self._native.name

    @property
    def kind(self) -> str:
        """``"questions"``, ``"statements"``, ``"prompts"`` or ``"pairs"``."""
        return self._native.kind

    @property
    def questions(self) -> list[tuple[str, str | None, list[tuple[str, bool]]]]:
        """Of each question the text, the category, and the answers with their labels."""
        return self._native.questions

    @property
    def labels(self) -> npt.NDArray[np.bool_]:
        """Whether each answer is true: bool ``[n_row]``."""
        return np.array(self._native.labels, dtype=np.bool_)

    @property
    def groups(self) -> npt.NDArray[np.int64]:
        """The question that each answer belongs to: int64 ``[n_row]``."""
        return np.array(self._native.groups, dtype=np.int64)

    def texts(self, template: str | None = None) -> list[str]:
        """The text of each answer with its question, as a capture reads it: ``[n_row]``.

        Parameters
        ----------
        template
            As in ``"Q: {question} A: {answer}"``, which is the usual one for questions.
        """
        return self._native.texts(template)


def neutral_prose() -> list[str]:
    """Documents of plain English prose that ask nothing, built in: what steering costs is measured on
    them where no others are given.
    """
    return native.neutral_prose()


@dataclass(frozen=True)
class Fitted:
    """What :func:`fit` gives.

    Attributes
    ----------
    vector : Vector
        The vector of the best heads.
    head_accuracy : float32 ``[n_layer, n_head]`` or None
        The share of validation texts that each head's probe reads correctly; None for hybrid models.
    chance : dict
        What the best accuracy is worth: beside the majority's, and beside what the best of as many
        heads reaches with shuffled labels.
    n_row : int
        Labelled texts that were used.
    """

    vector: Vector
    head_accuracy: Floats | None
    chance: dict[str, Any]
    n_row: int


def fit(
    model: Model,
    data: Dataset,
    *,
    k: int | None = None,
    alpha: float | None = None,
    kl_budget: float | None = None,
    neutral: Sequence[str] | None = None,
    direction: Direction = "mass-mean",
    balance: Literal["auto", "always", "never"] = "auto",
    positions: Positions = "generated",
    name: str | None = None,
    template: str | None = None,
    chat: bool = False,
    seed: int = 0,
    activations: str | Path | None = None,
    progress: Progress = None,
) -> Fitted:
    """Fit a vector, as ``candor fit`` does: a probe per head, the best heads, their directions.

    Parameters
    ----------
    model, data
        The model, and the texts.
    k
        Heads to steer; by default 3 of 64, the paper's share.
    alpha
        The strength to store; by default what `kl_budget` allows, else 15, the paper's.
    kl_budget
        Largest KL(original ‖ steered) per token of neutral text, in nats: gives the largest strength
        within it.
    neutral
        Documents that ask nothing; by default :func:`neutral_prose`.
    direction
        ``"mass-mean"``: from the mean of the false texts to that of the true; ``"probe"``: the probe's
        weights; ``"random"``: the control.
    balance
        Whether each question gives as many true as false answers; ``"auto"``: where one kind has more
        than twice as many.
    positions
        The tokens to steer where nothing else is said.
    name
        The vector's own name; by default the data set's.
    template
        The form of the texts, as in ``"Q: {question} A: {answer}"``.
    chat
        Whether the model's own chat template makes it.
    seed
        Draws the split, and random directions.
    activations
        A file to keep what is captured in, and to take it from where it is there.
    progress
        As of :meth:`Model.run_with_cache`, of the capture.

    Raises
    ------
    ValueError
        For data without both labels, too few questions or heads, a capture of something else.
    """
    with Bar("capturing", progress) as bar:
        vector, text = native.fit(
            model._native,  # pyright: ignore[reportPrivateUsage]
            data._native,  # pyright: ignore[reportPrivateUsage]
            _how(template, chat, seed, activations),
            k=k,
            alpha=alpha,
            kl_budget=kl_budget,
            neutral=neutral_prose() if neutral is None else neutral,
            direction=direction,
            balance=balance,
            positions=positions,
            name=name,
            progress=bar.call,
        )
    report = json.loads(text)
    accuracies = np.array(report["head_accuracy"], dtype=np.float32)
    is_whole = accuracies.size == model.n_layer * model.n_head
    return Fitted(
        vector,
        accuracies.reshape(model.n_layer, model.n_head) if is_whole else None,
        report["chance"],
        report["n_row"],
    )


def evaluate(
    model: Model,
    data: Dataset,
    vector: Vector | None = None,
    *,
    alpha: float | None = None,
    policy: Policy | None = None,
    neutral: Sequence[str] | None = None,
    instruction: str = INSTRUCTION,
    preamble: str = "",
    n_random: int = 10,
    n_predict: int = 50,
    template: str | None = None,
    chat: bool = False,
    seed: int = 0,
    activations: str | Path | None = None,
    progress: Progress = None,
) -> dict[str, Any]:
    """Score a vector on questions beside its baselines, as ``candor eval`` does; without, the model.

    Parameters
    ----------
    model, data
        The model, and questions with true and false answers. A vector that was fitted on them has
        seen them: use others, or :func:`cross_validate`.
    vector, alpha
        The vector, and its strength (by default its own).
    policy
        Tokens of scored answers that are steered: from the last of the prompt on (``"generated"``),
        all, the answer's own, or from its second one on (``"original"``). By default those of the
        vector (:attr:`Vector.positions`).
    neutral
        Documents that ask nothing, at least two, on which CE and KL are measured.
    instruction
        The baseline that needs no vector: it stands before the question.
    preamble
        Text before every question, such as examples.
    n_random
        Draws of random heads and directions.
    n_predict
        Tokens of a written answer, which is compared with the true ones; 0: none is written.
    template, chat, seed, activations, progress
        As of :func:`fit`.

    Returns
    -------
    dict
        ``rows``: by condition (``base``, ``iti``, ``random``, ``instruction``, ``instruction_iti``) its
        ``mc1``, ``mc2``, ``mc3``, ``ce``, ``kl``, ``kl_reverse``, ``true``, each also with its 95 %
        interval (``interval``) and as a change from ``base`` (``change``); ``seen``: how many of
        the questions the vector was fitted on, where it says; ``questions``: each by itself;
        ``folds``; ``n_question``; ``n_token``. As in ``candor eval --json``.
    """
    strength = (vector.alpha if vector is not None else 0.0) if alpha is None else alpha
    if policy is None:
        steers_all = vector is not None and vector.positions == "all"
        policy = "all" if steers_all else "generated"
    study = _study(policy, neutral, instruction, preamble, n_random, n_predict)
    return _evaluate(
        model,
        data,
        _how(template, chat, seed, activations),
        {**study, "ks": [1], "alphas": [strength]},
        (vector, strength, False),
        progress,
    )


def cross_validate(
    model: Model,
    data: Dataset,
    *,
    ks: Sequence[int],
    alphas: Sequence[float],
    kl_budget: float | None = 0.2,
    direction: Direction = "mass-mean",
    selection: Literal["accuracy", "effect", "causal"] = "accuracy",
    policy: Policy = "generated",
    neutral: Sequence[str] | None = None,
    instruction: str = INSTRUCTION,
    preamble: str = "",
    shuffle: bool = False,
    n_random: int = 10,
    n_predict: int = 50,
    template: str | None = None,
    chat: bool = False,
    seed: int = 0,
    activations: str | Path | None = None,
    progress: Progress = None,
) -> dict[str, Any]:
    """Fit on one half of the questions and score the other, both ways: ``candor eval --cv 2``.

    Parameters
    ----------
    ks, alphas
        Numbers of heads and strengths; where there is a choice, the pair with the best MC1 on the
        half that is fitted on, of those whose KL on neutral text stays within `kl_budget`.
    kl_budget
        In nats per token; None: no bound.
    selection
        By what heads are chosen: the accuracy of their probes, what moving each by itself does, or
        that per disturbance of other text.
    shuffle
        Whether the halves are drawn by the seed; else they are the first and the second.

    Returns
    -------
    dict
        As of :func:`evaluate`; ``folds`` say what was chosen.
    """
    study = _study(policy, neutral, instruction, preamble, n_random, n_predict)
    study.update(direction=direction, selection=selection, kl_budget=kl_budget, shuffle=shuffle)
    study.update(ks=[int(k) for k in ks], alphas=[float(alpha) for alpha in alphas])
    how = _how(template, chat, seed, activations)
    return _evaluate(model, data, how, study, (None, 0.0, True), progress)


def sweep(
    model: Model,
    data: Dataset,
    *,
    ks: Sequence[int],
    alphas: Sequence[float] | None = None,
    directions: Sequence[Direction] = ("mass-mean",),
    kl_budget: float | None = None,
    selection: Literal["accuracy", "effect", "causal"] = "accuracy",
    policy: Policy = "generated",
    neutral: Sequence[str] | None = None,
    instruction: str = INSTRUCTION,
    preamble: str = "",
    shuffle: bool = False,
    n_random: int = 10,
    n_predict: int = 0,
    template: str | None = None,
    chat: bool = False,
    seed: int = 0,
    activations: str | Path | None = None,
    progress: Progress = None,
) -> dict[str, Any]:
    """Try every K at every strength in two folds, as ``candor sweep`` does, and recommend one.

    Parameters
    ----------
    ks, alphas, directions
        What to try. Without `alphas`, for each K the largest strength within `kl_budget`.
    kl_budget
        In nats per token of neutral text; by default 0.2, which then refuses nothing.

    Returns
    -------
    dict
        ``cells``: each with ``direction``, ``k``, ``alpha``, ``folds`` and ``held_out`` (a row as of
        :func:`evaluate`); ``recommended``: of each fold, and ``overall``, indices into them;
        ``gains``: whether the overall one gains over no steering where it is recommended; ``rows``: the
        recommended ones beside their baselines.
    """
    if alphas is None and kl_budget is None:
        raise ValueError("alphas: give strengths to try, or a kl_budget to find them by")
    study = _study(policy, neutral, instruction, preamble, n_random, n_predict)
    study.update(
        direction=next(iter(directions), "mass-mean"), selection=selection, shuffle=shuffle
    )
    study.update(ks=sorted({int(k) for k in ks}), alphas=[])
    # As the program: a budget that nobody asked for guides the choice and refuses nothing.
    is_strict = kl_budget is not None
    study.update(kl_budget=kl_budget if is_strict else 0.2, is_strict=is_strict)
    with Bar("sweeping", progress) as bar:
        text = native.sweep(
            model._native,  # pyright: ignore[reportPrivateUsage]
            data._native,  # pyright: ignore[reportPrivateUsage]
            _how(template, chat, seed, activations),
            study,
            directions=list(dict.fromkeys(directions)),
            alphas=None if alphas is None else sorted({float(alpha) for alpha in alphas}),
            progress=bar.call,
        )
    return _document(text)


def _how(
    template: str | None, chat: bool, seed: int, activations: str | Path | None
) -> dict[str, Any]:
    return {"template": template, "chat": chat, "seed": seed, "activations": activations}


def _study(
    policy: str,
    neutral: Sequence[str] | None,
    instruction: str,
    preamble: str,
    n_random: int,
    n_predict: int,
) -> dict[str, Any]:
    return {
        "neutral": neutral_prose() if neutral is None else list(neutral),
        "instruction": instruction,
        "preamble": preamble,
        "policy": policy,
        "shuffle": False,
        "direction": "mass-mean",
        "selection": "accuracy",
        "kl_budget": None,
        "is_strict": False,
        "n_random": n_random,
        "n_predict": n_predict,
    }


def _evaluate(
    model: Model,
    data: Dataset,
    how: Mapping[str, Any],
    study: Mapping[str, Any],
    what: tuple[Vector | None, float, bool],
    progress: Progress,
) -> dict[str, Any]:
    vector, alpha, two_folds = what
    with Bar("scoring", progress) as bar:
        text = native.evaluate(
            model._native,  # pyright: ignore[reportPrivateUsage]
            data._native,  # pyright: ignore[reportPrivateUsage]
            dict(how),
            dict(study),
            vector=vector,
            alpha=alpha,
            two_folds=two_folds,
            progress=bar.call,
        )
    return _document(text)


def _document(text: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(text)
    document["rows"] = {row["name"]: row for row in document["rows"]}
    return document
