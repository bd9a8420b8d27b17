// Writes what containerd's own library makes of several capability sets: one file for each architecture and set.
// Run by ./generate, which lets the architecture be chosen (containerd takes that of the program).
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// What containerd gives a container by default.
var usual = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

var others = []string{
	"CAP_AUDIT_CONTROL", "CAP_AUDIT_READ", "CAP_BLOCK_SUSPEND", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
	"CAP_DAC_READ_SEARCH", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_LEASE", "CAP_LINUX_IMMUTABLE", "CAP_MAC_ADMIN",
	"CAP_MAC_OVERRIDE", "CAP_NET_ADMIN", "CAP_NET_BROADCAST", "CAP_PERFMON", "CAP_SYSLOG", "CAP_SYS_ADMIN",
	"CAP_SYS_BOOT", "CAP_SYS_MODULE", "CAP_SYS_NICE", "CAP_SYS_PACCT", "CAP_SYS_PTRACE", "CAP_SYS_RAWIO",
	"CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_WAKE_ALARM",
}

type golden struct {
	Machine      string              `json:"machine"`
	Capabilities []string            `json:"capabilities"`
	Seccomp      *specs.LinuxSeccomp `json:"seccomp"`
}

func with(caps ...string) []string {
	return append(append([]string{}, usual...), caps...)
}

func without(cap string) []string {
	var out []string
	for _, c := range usual {
		if c != cap {
			out = append(out, c)
		}
	}
	return out
}

func main() {
	sets := map[string][]string{
		"usual":      usual,
		"sys-admin":  with("CAP_SYS_ADMIN"),
		"sys-ptrace": with("CAP_SYS_PTRACE"),
		"net-bpf":    with("CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON"),
		"no-chroot":  without("CAP_SYS_CHROOT"),
		"all":        with(others...),
		"none":       {},
	}
	machine := os.Args[1]
	for name, caps := range sets {
		spec := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}}
		text, err := json.Marshal(golden{machine, caps, seccomp.DefaultProfile(spec)})
		if err != nil {
			log.Fatal(err)
		}
		path := filepath.Join(os.Args[2], fmt.Sprintf("%s-%s.json", machine, name))
		if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
			log.Fatal(err)
		}
	}
}
