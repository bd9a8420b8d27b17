package main

import (
	"cmp"
	"context"
	_ "crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
)

type task struct {
	Case
	o  *Options
	id string
}

func (t *task) dir() string { return filepath.Join(allocDir, t.Task) }

// specOpts lists the library's options in the order in which the Go driver applies them (containerd.go, createContainer).
// What that driver does not know comes where nerdctl and Docker's daemon have it; each such part is a function of
// parts.go.
func (t *task) specOpts() ([]oci.SpecOpts, error) {
	o := t.o
	if o.Command != "" && o.Entrypoint != nil {
		return nil, errors.New("Both command and entrypoint are set. Only one of them needs to be set.")
	}
	var args []string
	switch {
	case o.Command != "":
		args = []string{o.Command}
	case o.Entrypoint != nil && len(o.Entrypoint) == 0:
		return nil, errors.New("the Go driver dies of an empty entrypoint")
	default:
		args = append(args, o.Entrypoint...)
	}
	args = append(args, o.Args...)

	var opts []oci.SpecOpts
	add := func(opt ...oci.SpecOpts) { opts = append(opts, opt...) }
	image := newImage(t.Image)
	if o.Entrypoint != nil {
		add(oci.WithImageConfig(image), oci.WithProcessArgs(args...))
	} else {
		add(oci.WithImageConfigArgs(image, args))
	}
	if o.Privileged {
		// In place of what this process has, and of this machine's /dev: what the case says of the node.
		add(oci.WithPrivileged, oci.WithCapabilities(t.Node.Capabilities), oci.WithAllDevicesAllowed,
			oci.WithLinuxDevices(devices(t.Node.HostDevices)), oci.WithNewPrivileges)
	}
	if o.PidsLimit > 0 {
		add(oci.WithPidsLimit(o.PidsLimit))
	}
	modes, err := t.modes()
	if err != nil {
		return nil, err
	}
	add(modes...)
	if o.ShmSize != "" {
		size, err := units.RAMInBytes(o.ShmSize)
		if err != nil {
			return nil, err
		}
		add(oci.WithDevShmSize(size / 1024))
	}
	add(sysctl(o.Sysctl))
	if !o.Seccomp && o.SeccompProfile != "" {
		return nil, errors.New("seccomp must be set to true, if using a custom seccomp_profile.")
	}
	if o.ReadonlyRootfs {
		add(oci.WithRootFSReadonly())
	}
	if o.HostNetwork {
		add(oci.WithHostNamespace(specs.NetworkNamespace), oci.WithHostHostsFile, oci.WithHostResolvconf)
	}
	caps, err := capabilities(o, t.Node.Capabilities)
	if err != nil {
		return nil, err
	}
	add(caps...)
	if o.Cwd != "" {
		add(oci.WithProcessCwd(o.Cwd))
	}
	var env []string
	for name, value := range t.Env {
		// The Go driver leaves the image's PATH alone (driver.go, skipOverride).
		if name != "PATH" {
			env = append(env, name+"="+value)
		}
	}
	// Maps have no order in Go, and the files are to be the same each time.
	slices.Sort(env)
	add(oci.WithEnv(env), t.memory(), oci.WithCPUShares(uint64(t.Resources.CPU)))
	limits, err := t.limits()
	if err != nil {
		return nil, err
	}
	add(limits...)
	hostname := t.id
	if o.Hostname != "" {
		hostname = o.Hostname
	}
	add(oci.WithHostname(hostname))
	devices, err := t.devices()
	if err != nil {
		return nil, err
	}
	add(devices...)
	mounts, err := t.mounts()
	if err != nil {
		return nil, err
	}
	add(oci.WithMounts(mounts))
	if t.Network != "" {
		if o.HostNetwork {
			return nil, errors.New("host_network and bridge network mode are mutually exclusive, and only one of them should be set")
		}
		add(oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: t.Network}))
	}
	if t.User != "" {
		add(oci.WithUser(t.User))
	}
	if len(o.GroupAdd) > 0 {
		add(oci.WithAppendAdditionalGroups(o.GroupAdd...))
	}
	if o.TTY {
		add(oci.WithTTY)
	}
	if o.Init {
		add(initProgram(cmp.Or(o.InitPath, t.Node.InitProgram)))
	}
	if len(o.Annotations) > 0 {
		add(oci.WithAnnotations(o.Annotations))
	}
	security, err := t.security()
	if err != nil {
		return nil, err
	}
	// The library's own word on it: the default filter "must follow the setting of process capabilities". The Go driver
	// has it before cap_add and cap_drop.
	return append(opts, security...), nil
}

func (t *task) seccomp(path string) (oci.SpecOpts, error) {
	if path == "" {
		return seccomp.WithDefaultProfile(), nil
	}
	if len(t.Node.SeccompProfile) == 0 {
		return nil, fmt.Errorf("cannot load seccomp profile %q: no such file", path)
	}
	file := filepath.Join(scratch, "seccomp.json")
	check(os.MkdirAll(scratch, 0o755))
	check(os.WriteFile(file, t.Node.SeccompProfile, 0o600))
	return seccomp.WithProfile(file), nil
}

// As in the Go driver's utils.go.
func sysctl(values map[string]string) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		if s.Linux.Sysctl == nil {
			s.Linux.Sysctl = map[string]string{}
		}
		for k, v := range values {
			s.Linux.Sysctl[k] = v
		}
		return nil
	}
}

// memory is WithMemoryLimits of the Go driver's utils.go, with memory_hard_limit as Nomad's Docker driver has it.
func (t *task) memory() oci.SpecOpts {
	soft, hard := t.Resources.MemoryMB<<20, t.Resources.MemoryMaxMB<<20
	hard = max(hard, t.o.MemoryHardLimit<<20)
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		memory := &specs.LinuxMemory{}
		if hard > 0 {
			memory.Limit, memory.Reservation = &hard, &soft
		} else {
			memory.Limit = &soft
		}
		s.Linux.Resources.Memory = memory
		return nil
	}
}

// image is an image in a content store that holds its configuration and nothing else.
type image struct{ config []byte }

func newImage(config any) *image {
	text, err := json.Marshal(map[string]any{"architecture": "amd64", "os": "linux", "config": config})
	check(err)
	return &image{text}
}

func (i *image) Config(context.Context) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageConfig,
		Digest:    digest.FromBytes(i.config),
		Size:      int64(len(i.config)),
	}, nil
}

func (i *image) ContentStore() content.Store { return store{config: i.config} }

type store struct {
	content.Store
	config []byte
}

func (s store) ReaderAt(context.Context, ocispec.Descriptor) (content.ReaderAt, error) {
	return reader{strings.NewReader(string(s.config))}, nil
}

type reader struct{ *strings.Reader }

func (reader) Close() error { return nil }
