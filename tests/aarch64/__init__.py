"""The runtimes' tests as aarch64 programs, in an emulator: `make test-aarch64`."""
