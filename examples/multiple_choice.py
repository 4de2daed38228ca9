"""A downstream read-out: margin and accuracy on a multiple-choice set made from held-out text."""

from pydoc_data.topics import topics

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fut

QUESTIONS, CHOICES, PREFIX, LENGTH = 32, 4, 40, 64
text = "\n".join(topics[name] for name in sorted(topics)).encode()  # the built-in text: its last tenth is held out
rows = torch.tensor(list(text[-QUESTIONS * LENGTH :])).view(QUESTIONS, LENGTH)
endings = torch.stack([rows[:, PREFIX:].roll(shift, 0) for shift in range(CHOICES)], 1)  # the true one is the first
choices = torch.cat([rows[:, None, :PREFIX].expand(-1, CHOICES, -1), endings], -1).flatten(0, 1)


def losses(module: nn.Module) -> torch.Tensor:
    """Loss per token of every ending, given its question's beginning [questions, choices]."""
    logits = module(choices[:, :-1])[:, PREFIX - 1 :]
    found = cross_entropy(logits.flatten(0, 1), choices[:, PREFIX:].flatten(), reduction="none")
    return found.view(QUESTIONS, CHOICES, -1).mean(-1)


def margin(module: nn.Module) -> torch.Tensor:
    found = losses(module)
    return (found[:, 1:].amin(1) - found[:, 0]).mean()


def accuracy(module: nn.Module) -> torch.Tensor:
    return (losses(module).argmin(1) == 0).float().mean()  # a step function: it has no gradient


if __name__ == "__main__":
    name = "multiple_choice:margin"
    run = fut.train("runs/choice", fut.load_config(data={"items": 16, "batch": 4}, warmup={"steps": 60}))
    run.cache(readouts=[name])
    print("accuracy", run.estimate(["reverse"], "retrain", readout="multiple_choice:accuracy")[0].value)
    verified = run.verify(orders=12, estimators=["adjoint"], readout=name).estimators["adjoint"]
    print("Spearman with 12 orders retrained:", verified["spearman"])
