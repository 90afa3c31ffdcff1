"""The subcommands of `xrouter`, one file each."""
