// Writes what a Go client of containerd makes of the task configurations in cases.json: one specification for each case,
// built with containerd's own library (pkg/oci, contrib/seccomp, pkg/cdi), as the Go driver builds its own.
//
// Regenerate with `make goldens`. Needs Go, the module proxy the first time, and root for device nodes in /tmp.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
)

const (
	casesFile = "cases.json"
	outDir    = "specs"
	allocID   = "8e2ac4a7-6a5d-4a0c-9b6f-3f1d2c5b7e90"
	allocDir  = "/var/lib/nomad/alloc/" + allocID
	// Files that the library reads itself lie here while it runs; no path of it may get into a golden file.
	scratch = "/tmp/containerd-driver-goldens"
)

// Case is one task: what a job author and an operator write, and what the node is like.
type Case struct {
	Name    string `json:"name"`
	Options json.RawMessage
	Image   struct {
		Entrypoint []string            `json:",omitempty"`
		Cmd        []string            `json:",omitempty"`
		Env        []string            `json:",omitempty"`
		User       string              `json:",omitempty"`
		WorkingDir string              `json:",omitempty"`
		Volumes    map[string]struct{} `json:",omitempty"`
	}
	Passwd    string
	Group     string
	Task      string
	User      string
	Env       map[string]string
	Resources Resources
	Mounts    []HostMount  `json:"mounts"`
	Devices   []HostDevice `json:"devices"`
	Network   string
	DNS       *DNS
	Settings  json.RawMessage
	Node      Node
}

type Resources struct {
	CPU          int64
	MemoryMB     int64   `json:"memory_mb"`
	MemoryMaxMB  int64   `json:"memory_max_mb"`
	Cores        string  `json:"cores"`
	CpusetCgroup string  `json:"cpuset_cgroup"`
	PercentTicks float64 `json:"percent_ticks"`
}

type HostMount struct {
	TaskPath    string `json:"task_path"`
	HostPath    string `json:"host_path"`
	Readonly    bool
	Propagation string
}

type HostDevice struct {
	TaskPath    string `json:"task_path"`
	HostPath    string `json:"host_path"`
	Permissions string
}

type DNS struct {
	Servers  []string
	Searches []string
	Options  []string
}

// Node is what matters of the machine; nothing of the machine this runs on may count.
type Node struct {
	Cgroup         string
	Capabilities   []string
	Cores          int64
	InitProgram    string            `json:"init_program"`
	SeccompProfile json.RawMessage   `json:"seccomp_profile"`
	CDI            map[string]string `json:"cdi"`
	Devices        []Device
	HostDevices    []Device `json:"host_devices"`
}

type Device struct {
	Path  string
	Kind  string
	Major int64
	Minor int64
	Mode  uint32
	UID   uint32
	GID   uint32
}

func main() {
	log.SetFlags(0)
	var file struct{ Cases []Case }
	text, err := os.ReadFile(casesFile)
	check(err)
	check(json.Unmarshal(text, &file))
	check(os.RemoveAll(outDir))
	check(os.Mkdir(outDir, 0o755))
	seen := map[string]bool{}
	for _, c := range file.Cases {
		if seen[c.Name] {
			log.Fatalf("two cases are called %s", c.Name)
		}
		seen[c.Name] = true
		golden, err := build(c)
		if err != nil {
			golden = map[string]string{"refused": err.Error()}
		}
		write(c.Name, golden)
	}
	log.Printf("%d cases", len(file.Cases))
}

func build(c Case) (any, error) {
	check(os.RemoveAll(scratch))
	defer os.RemoveAll(scratch)
	o, err := parseOptions(c.Options)
	if err != nil {
		return nil, err
	}
	t := &task{Case: c, o: o}
	if t.Task == "" {
		t.Task = "web"
	}
	if t.Env == nil {
		t.Env = map[string]string{}
	}
	for name, dir := range map[string]string{"ALLOC": "/alloc", "TASK": "/local", "SECRETS": "/secrets"} {
		t.Env["NOMAD_"+name+"_DIR"] = dir
	}
	// The Go driver's conventions for names (driver.go, StartTask) and namespaces (Driver.SetConfig).
	id, ns := t.Task+"-"+allocID, "nomad"
	if c.Node.Cgroup != "v1" {
		id, ns = allocID+"."+t.Task+".scope", "nomad.slice"
	}
	t.id = id
	ctx := namespaces.WithNamespace(context.Background(), ns)
	opts, err := t.specOpts()
	if err != nil {
		return nil, err
	}
	// The library looks users up in a directory where there is no snapshot.
	root := filepath.Join(scratch, "rootfs")
	check(os.MkdirAll(filepath.Join(root, "etc"), 0o755))
	check(os.WriteFile(filepath.Join(root, "etc/passwd"), []byte(c.Passwd), 0o644))
	check(os.WriteFile(filepath.Join(root, "etc/group"), []byte(c.Group), 0o644))
	all := append([]oci.SpecOpts{oci.WithDefaultSpec(), oci.WithNamespacedCgroup(), oci.WithRootFSPath(root)}, opts...)
	spec := &oci.Spec{}
	if err := oci.ApplyOpts(ctx, nil, &containers.Container{ID: id}, spec, all...); err != nil {
		return nil, err
	}
	spec.Root.Path = "rootfs"
	// The library masks a directory for each processor of the machine it runs on.
	spec.Linux.MaskedPaths = slices.DeleteFunc(spec.Linux.MaskedPaths, func(path string) bool {
		return strings.HasSuffix(path, "/thermal_throttle")
	})
	return spec, nil
}

// Keys sorted, one value per line, so that a change of the library is a readable change of the file.
func write(name string, golden any) {
	text, err := json.Marshal(golden)
	check(err)
	text = bytes.ReplaceAll(text, []byte(scratch), nil)
	var tree any
	check(json.Unmarshal(text, &tree))
	text, err = json.MarshalIndent(tree, "", " ")
	check(err)
	check(os.WriteFile(filepath.Join(outDir, name+".json"), append(text, '\n'), 0o644))
}

func (d Device) linux() specs.LinuxDevice {
	mode := os.FileMode(d.Mode)
	return specs.LinuxDevice{Path: d.Path, Type: letter(d.Kind), Major: d.Major, Minor: d.Minor, FileMode: &mode, UID: &d.UID, GID: &d.GID}
}

func letter(kind string) string {
	return strings.ToLower(kind[:1])
}

func check(err error) {
	if err != nil {
		log.Fatal(fmt.Errorf("goldens: %w", err))
	}
}
