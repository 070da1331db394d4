"""Started by torchrun: train as CONFIG says; afterwards all processes must hold the same weights."""

import sys

from train.config import load_config
from train.fitting import fit, preparing
from train.fitting.module import ImageModule
from train.processes.distributed import gather_objects

made = []


class Kept(ImageModule):
    def __init__(self, *args):
        super().__init__(*args)
        made.append(self)


preparing.ImageModule = Kept
fit.fit(load_config(sys.argv[1], sys.argv[2:]))
weights = {name: tensor.tolist() for name, tensor in made[0].model.named_parameters()}
found = gather_objects(weights)
assert len(found) == 2
assert found[0] == found[1], "the processes have other weights"
