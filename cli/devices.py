"""Device and threads that a model computes with."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def choose_device(name: str, threads: int | None = None) -> "torch.device":
    """Return the device that a name means, and set the number of threads.

    Args:
        name (`str`): `"auto"` for an accelerator if there is one, or a device of torch.
        threads (`int`, *optional*): Of torch on the processor; as many as it chooses when `None`.

    Raises:
        `ValueError`: There is no such device here.
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    device = torch.device(name)
    if device.type == "cpu":
        num_devices = 1
    else:
        module = getattr(torch, device.type, None)  # torch knows names of devices that come with packages of their own
        num_devices = module.device_count() if module is not None and module.is_available() else 0
    if (device.index or 0) >= num_devices:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        found = ["cpu"]
        if accelerator is not None:
            found += [f"{accelerator.type}:{index}" for index in range(torch.accelerator.device_count())]
        raise ValueError(f"`--device` must be auto or a device that is here, {' or '.join(found)}, got {name!r}.")
    return device
