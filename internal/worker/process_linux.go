package worker

import "syscall"

// executable is this one, also after an upgrade has replaced its file: both
// ends of the pipes must be of one version.
func executable() string { return "/proc/self/exe" }

// dieWithParent has the child told when its parent is gone, however that ended.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGTERM }
