"""``python -m binder``: the managed service."""

from binder.starting import Starting

starting = Starting()

from binder.app import BinderHub  # noqa: E402 - after the address answers

BinderHub.launch_instance(before_listening=starting.end)
