package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/go-units"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func bind(target, source string, options ...string) specs.Mount {
	return specs.Mount{Type: "bind", Destination: target, Source: source, Options: options}
}

// mounts lists them in the Go driver's order.
func (t *task) mounts() ([]specs.Mount, error) {
	o := t.o
	var out []specs.Mount
	for _, m := range o.Mounts {
		mount, err := t.mount(m)
		if err != nil {
			return nil, err
		}
		out = append(out, mount)
	}
	for _, text := range o.Volumes {
		parts := strings.Split(text, ":")
		if len(parts) < 2 || len(parts) > 3 {
			return nil, fmt.Errorf("invalid volume %q", text)
		}
		options := []string{"rbind", "rprivate"}
		if len(parts) == 3 {
			options = append(options, strings.Split(parts[2], ",")...)
		}
		out = append(out, bind(parts[1], t.inside(parts[0]), options...))
	}
	for _, text := range o.Tmpfs {
		target, options, _ := strings.Cut(text, ":")
		mount := specs.Mount{Type: "tmpfs", Destination: target, Source: "tmpfs", Options: []string{"noexec", "nosuid", "nodev"}}
		if options != "" {
			mount.Options = append(mount.Options, strings.Split(options, ",")...)
		}
		out = append(out, mount)
	}
	// setVolumeMounts of the Go driver: Nomad's volumes, then the group's resolv.conf, both among the job's own.
	for _, m := range t.Mounts {
		access := "rw"
		if m.Readonly {
			access = "ro"
		}
		out = append(out, bind(m.TaskPath, m.HostPath, "rbind", access))
	}
	if t.DNS != nil || len(o.DNSServers)+len(o.DNSSearchDomains)+len(o.DNSOptions) > 0 {
		out = append(out, bind("/etc/resolv.conf", filepath.Join(t.dir(), "resolv.conf"), "bind", "ro"))
	} else if o.HostDNS == nil || *o.HostDNS {
		out = append(out, bind("/etc/resolv.conf", "/etc/resolv.conf", "rbind", "ro"))
	}
	out = append(out,
		bind("/secrets", filepath.Join(t.dir(), "secrets"), "rbind", "rw"),
		bind("/local", filepath.Join(t.dir(), "local"), "rbind", "rw"),
		bind("/alloc", filepath.Join(allocDir, "alloc"), "rbind", "rw"))
	if len(o.ExtraHosts) > 0 || !o.HostNetwork {
		out = append(out, bind("/etc/hosts", filepath.Join(t.dir(), "local", "etc_hosts"), "rbind", "rw"))
	}
	return out, nil
}

func (t *task) mount(m MountOption) (specs.Mount, error) {
	out := specs.Mount{Type: m.Type, Destination: m.Target, Source: m.Source, Options: m.Options}
	if out.Type == "" {
		out.Type = "volume"
	}
	hostPath := out.Type == "bind" || out.Type == "volume"
	if m.Readonly != nil && *m.Readonly {
		out.Options = append(out.Options, "ro")
	}
	if m.BindOptions != nil {
		out.Options = append(out.Options, m.BindOptions.Propagation)
	}
	if hostPath && len(out.Options) == 0 {
		return out, fmt.Errorf("Options cannot be empty for mount type: %s. You need to atleast pass rbind and ro.", out.Type)
	}
	if hostPath && len(m.Options) == 0 {
		out.Options = append([]string{"rbind"}, out.Options...)
	}
	if out.Type == "bind" && strings.HasPrefix(m.Source, "local") {
		out.Source = filepath.Join(t.dir(), "local") + m.Source[5:]
	}
	if out.Type == "tmpfs" && m.TmpfsOptions != nil {
		size, err := units.RAMInBytes(m.TmpfsOptions.Size)
		if err != nil {
			return out, err
		}
		out.Options = append(out.Options, "noexec", "nosuid", "nodev", fmt.Sprintf("size=%d", size))
		if m.TmpfsOptions.Mode != nil {
			out.Options = append(out.Options, fmt.Sprintf("mode=%o", *m.TmpfsOptions.Mode))
		}
	}
	return out, nil
}

func (t *task) inside(source string) string {
	if filepath.IsAbs(source) {
		return source
	}
	return filepath.Join(t.dir(), source)
}

// makeDevices makes the node's devices below the scratch directory, where the library looks at them.
func (t *task) makeDevices() {
	for _, d := range t.Node.Devices {
		path := scratch + d.Path
		check(os.MkdirAll(filepath.Dir(path), 0o755))
		kind := uint32(unix.S_IFCHR)
		if d.Kind == "block" {
			kind = unix.S_IFBLK
		}
		check(unix.Mknod(path, kind|d.Mode, int(unix.Mkdev(uint32(d.Major), uint32(d.Minor)))))
		check(os.Chown(path, int(d.UID), int(d.GID)))
		check(os.Chmod(path, os.FileMode(d.Mode)))
	}
}

func (t *task) isDir(path string) bool {
	info, err := os.Stat(scratch + path)
	return err == nil && info.IsDir()
}

func jsonOf(text []byte, to any) error {
	if len(text) == 0 {
		return nil
	}
	return json.Unmarshal(text, to)
}
