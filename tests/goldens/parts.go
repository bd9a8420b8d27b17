package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/containers"
	cdioci "github.com/containerd/containerd/v2/pkg/cdi"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/docker/go-units"
	"github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
)

func (t *task) modes() ([]oci.SpecOpts, error) {
	var opts []oci.SpecOpts
	o := t.o
	if o.PidMode != "" {
		if strings.ToLower(o.PidMode) != "host" {
			return nil, fmt.Errorf("Invalid pid_mode. Set pid_mode=host to enable host pid namespace.")
		}
		opts = append(opts, oci.WithHostNamespace(specs.PIDNamespace))
	}
	if o.IpcMode == "host" {
		// Docker shows the host's own directories there.
		opts = append(opts, oci.WithHostNamespace(specs.IPCNamespace), oci.WithoutMounts("/dev/shm", "/dev/mqueue"),
			oci.WithMounts([]specs.Mount{bind("/dev/shm", "/dev/shm", "rbind", "nosuid", "noexec", "nodev"),
				bind("/dev/mqueue", "/dev/mqueue", "rbind", "nosuid", "noexec", "nodev")}))
	}
	if o.IpcMode == "none" {
		opts = append(opts, oci.WithoutMounts("/dev/shm"))
	}
	if o.UtsMode == "host" {
		opts = append(opts, oci.WithHostNamespace(specs.UTSNamespace))
	}
	if o.CgroupNS == "private" {
		opts = append(opts, oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.CgroupNamespace}))
	}
	if o.UserNS == "private" {
		var settings struct {
			IDs string `json:"userns_ids"`
		}
		check(jsonOf(t.Settings, &settings))
		first, size, _ := strings.Cut(settings.IDs, ":")
		host, err := strconv.ParseUint(first, 10, 32)
		if err != nil {
			return nil, err
		}
		count, err := strconv.ParseUint(size, 10, 32)
		if err != nil {
			return nil, err
		}
		ids := []specs.LinuxIDMapping{{HostID: uint32(host), Size: uint32(count)}}
		opts = append(opts, oci.WithUserNamespace(ids, ids))
	}
	return opts, nil
}

// capabilities takes Docker's short names and ALL, which the library does not know.
func capabilities(o *Options, all []string) ([]oci.SpecOpts, error) {
	names := func(list []string) (out []string, every bool) {
		for _, name := range list {
			name = strings.ToUpper(name)
			if name == "ALL" || name == "CAP_ALL" {
				every = true
				continue
			}
			if !strings.HasPrefix(name, "CAP_") {
				name = "CAP_" + name
			}
			out = append(out, name)
		}
		return out, every
	}
	var opts []oci.SpecOpts
	add, addAll := names(o.CapAdd)
	drop, dropAll := names(o.CapDrop)
	if dropAll {
		opts = append(opts, oci.WithCapabilities(nil))
	}
	if addAll {
		opts = append(opts, oci.WithAddedCapabilities(all))
	}
	if len(add) > 0 {
		opts = append(opts, oci.WithAddedCapabilities(add))
	}
	if len(drop) > 0 {
		opts = append(opts, oci.WithDroppedCapabilities(drop))
	}
	return opts, nil
}

func (t *task) limits() ([]oci.SpecOpts, error) {
	o := t.o
	var opts []oci.SpecOpts
	add := func(opt oci.SpecOpts) { opts = append(opts, opt) }
	if o.CPUHardLimit {
		// Nomad's Docker driver: a share of one core's period, times the cores.
		period := o.CPUCFSPeriod
		if period == 0 {
			period = 100000
		}
		add(oci.WithCPUCFS(int64(t.Resources.PercentTicks*float64(period))*t.Node.Cores, period))
	}
	if t.Resources.Cores != "" {
		add(oci.WithCPUs(t.Resources.Cores))
	}
	if o.MemorySwap != "" {
		swap := int64(-1)
		if o.MemorySwap != "-1" {
			size, err := units.RAMInBytes(o.MemorySwap)
			if err != nil {
				return nil, err
			}
			swap = size
		}
		add(oci.WithMemorySwap(swap))
	}
	if o.BlkioWeight != nil {
		add(oci.WithBlockIO(&specs.LinuxBlockIO{Weight: o.BlkioWeight}))
	}
	for _, name := range slices.Sorted(maps.Keys(o.Ulimit)) {
		limit, err := units.ParseUlimit(name + "=" + o.Ulimit[name])
		if err != nil {
			return nil, err
		}
		add(oci.WithRlimit(&specs.POSIXRlimit{
			Type: "RLIMIT_" + strings.ToUpper(limit.Name), Soft: uint64(limit.Soft), Hard: uint64(limit.Hard)}))
	}
	var err error
	add(func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		if o.MemoryReservation != "" {
			var size int64
			if size, err = units.RAMInBytes(o.MemoryReservation); err != nil {
				return err
			}
			s.Linux.Resources.Memory.Reservation = &size
		}
		s.Linux.Resources.Memory.Swappiness = o.MemorySwappiness
		s.Process.OOMScoreAdj = o.OOMScoreAdj
		for _, page := range slices.Sorted(maps.Keys(o.HugepageLimits)) {
			size, err := units.RAMInBytes(o.HugepageLimits[page])
			if err != nil {
				return err
			}
			s.Linux.Resources.HugepageLimits = append(s.Linux.Resources.HugepageLimits,
				specs.LinuxHugepageLimit{Pagesize: page, Limit: uint64(size)})
		}
		return nil
	})
	return opts, nil
}

func devices(list []Device) (out []specs.LinuxDevice) {
	for _, d := range list {
		out = append(out, d.linux())
	}
	return out
}

func (t *task) devices() ([]oci.SpecOpts, error) {
	var opts []oci.SpecOpts
	t.makeDevices()
	defaultTo := func(text, usual string) string {
		if text == "" {
			return usual
		}
		return text
	}
	var names []string
	for _, d := range t.o.Devices {
		switch {
		case !strings.HasPrefix(d.HostPath, "/"):
			names = append(names, d.HostPath)
		case d.ContainerPath == "" && d.CgroupPermissions == "" && !t.isDir(d.HostPath):
			opts = append(opts, oci.WithLinuxDevice(scratch+d.HostPath, "rwm"))
		default:
			opts = append(opts, oci.WithDevices(scratch+d.HostPath, d.ContainerPath, defaultTo(d.CgroupPermissions, "rwm")))
		}
	}
	for _, d := range t.Devices {
		opts = append(opts, oci.WithDevices(scratch+d.HostPath, d.TaskPath, defaultTo(d.Permissions, "rwm")))
	}
	for _, rule := range t.o.DeviceCgroupRules {
		parsed, err := parseRule(rule)
		if err != nil {
			return nil, err
		}
		opts = append(opts, func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
			s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, parsed)
			return nil
		})
	}
	if len(names) > 0 {
		dir := filepath.Join(scratch, "cdi")
		check(os.MkdirAll(dir, 0o755))
		for name, text := range t.Node.CDI {
			check(os.WriteFile(filepath.Join(dir, filepath.Base(name)), []byte(text), 0o644))
		}
		check(cdi.Configure(cdi.WithSpecDirs(dir), cdi.WithAutoRefresh(false)))
		opts = append(opts, cdioci.WithCDIDevices(names...))
	}
	return opts, nil
}

func parseRule(text string) (specs.LinuxDeviceCgroup, error) {
	var kind, numbers, access string
	if n, err := fmt.Sscanf(text, "%s %s %s", &kind, &numbers, &access); n != 3 || err != nil {
		return specs.LinuxDeviceCgroup{}, fmt.Errorf("invalid device cgroup rule: %q", text)
	}
	rule := specs.LinuxDeviceCgroup{Allow: true, Type: kind, Access: access}
	for i, part := range strings.SplitN(numbers, ":", 2) {
		if part == "*" {
			continue
		}
		number, err := strconv.ParseInt(part, 10, 64)
		if err != nil {
			return rule, err
		}
		if i == 0 {
			rule.Major = &number
		} else {
			rule.Minor = &number
		}
	}
	return rule, nil
}

// initProgram is what nerdctl does for --init.
func initProgram(path string) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		s.Process.Args = append([]string{"/sbin/tini", "--"}, s.Process.Args...)
		s.Mounts = append(s.Mounts, bind("/sbin/tini", path, "bind", "ro"))
		return nil
	}
}

func (t *task) security() ([]oci.SpecOpts, error) {
	o := t.o
	var opts []oci.SpecOpts
	add := func(opt oci.SpecOpts) { opts = append(opts, opt) }
	if o.NoNewPrivileges != nil {
		add(noNewPrivileges(*o.NoNewPrivileges))
	}
	if o.AppArmorProfile != "" && o.AppArmorProfile != "unconfined" {
		add(oci.WithApparmorProfile(o.AppArmorProfile))
	}
	on, profile := o.Seccomp, o.SeccompProfile
	for _, item := range o.SecurityOpt {
		key, value, _ := strings.Cut(item, "=")
		switch key {
		case "seccomp":
			on, profile = value != "unconfined", value
		case "apparmor":
			if value != "unconfined" {
				add(oci.WithApparmorProfile(value))
			}
		case "no-new-privileges":
			add(noNewPrivileges(value != "false"))
		case "systempaths":
			add(oci.WithMaskedPaths(nil))
			add(oci.WithReadonlyPaths(nil))
		case "mask", "unmask":
			add(mask(key == "mask", strings.Split(value, ":")))
		case "label":
			// disable: nothing to do, no label is set.
		default:
			return nil, fmt.Errorf("invalid security_opt: %q", item)
		}
	}
	if on {
		opt, err := t.seccomp(profile)
		if err != nil {
			return nil, err
		}
		add(opt)
	}
	return opts, nil
}

func noNewPrivileges(on bool) oci.SpecOpts {
	if on {
		return oci.WithNoNewPrivileges
	}
	return oci.WithNewPrivileges
}

// mask is Podman's mask= and unmask=.
func mask(on bool, paths []string) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		if on {
			s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, paths...)
			return nil
		}
		without := func(list []string) (kept []string) {
			for _, path := range list {
				if !contains(paths, path) {
					kept = append(kept, path)
				}
			}
			return kept
		}
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = without(s.Linux.MaskedPaths), without(s.Linux.ReadonlyPaths)
		return nil
	}
}

func contains(list []string, text string) bool {
	for _, item := range list {
		if item == text {
			return true
		}
	}
	return false
}
