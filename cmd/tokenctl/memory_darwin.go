package main

// inMemory reports whether what is written below dir stays in memory: macOS
// has no such place by default.
func inMemory(string) bool { return false }
