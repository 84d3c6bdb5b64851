"""Training recipes: `<model>/{sft,dpo}/config_*.yaml`, made by `make`, and configs of accelerate to launch them with."""
