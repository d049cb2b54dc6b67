package daemon

func unmapProgram() {}
