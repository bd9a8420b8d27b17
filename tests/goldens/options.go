package main

import (
	"bytes"
	"encoding/json"
	"strings"
)

// Options are the driver options as a job has them, under all their names.
type Options struct {
	Image            string
	ImagePullTimeout string `json:"image_pull_timeout"`
	ForcePull        bool   `json:"force_pull"`
	Auth             any
	Runtime          string
	Snapshotter      string

	Command     string
	Args        []string
	Entrypoint  []string
	Cwd         string
	WorkDir     string `json:"work_dir"`
	WorkingDir  string `json:"working_dir"`
	Hostname    string
	GroupAdd    []string `json:"group_add"`
	Init        bool
	InitPath    string `json:"init_path"`
	TTY         bool
	Interactive bool
	Ulimit      map[string]string
	Labels      map[string]string
	Annotations map[string]string

	Privileged      bool
	CapAdd          []string `json:"cap_add"`
	CapDrop         []string `json:"cap_drop"`
	Seccomp         bool
	SeccompProfile  string   `json:"seccomp_profile"`
	AppArmorProfile string   `json:"apparmor_profile"`
	AppArmor        string   `json:"apparmor"`
	NoNewPrivileges *bool    `json:"no_new_privileges"`
	SecurityOpt     []string `json:"security_opt"`
	ReadonlyRootfs  bool     `json:"readonly_rootfs"`
	PidMode         string   `json:"pid_mode"`
	IpcMode         string   `json:"ipc_mode"`
	UtsMode         string   `json:"uts_mode"`
	CgroupNS        string   `json:"cgroupns"`
	UserNS          string   `json:"userns"`
	UserNSMode      string   `json:"userns_mode"`

	CPUHardLimit      bool              `json:"cpu_hard_limit"`
	CPUCFSPeriod      uint64            `json:"cpu_cfs_period"`
	MemoryHardLimit   int64             `json:"memory_hard_limit"`
	MemoryReservation string            `json:"memory_reservation"`
	MemorySwap        string            `json:"memory_swap"`
	MemorySwappiness  *uint64           `json:"memory_swappiness"`
	OOMScoreAdj       *int              `json:"oom_score_adj"`
	PidsLimit         int64             `json:"pids_limit"`
	HugepageLimits    map[string]string `json:"hugepage_limits"`
	BlkioWeight       *uint16           `json:"blkio_weight"`
	ShmSize           string            `json:"shm_size"`
	Sysctl            map[string]string

	Devices           []DeviceOption
	DeviceCgroupRules []string `json:"device_cgroup_rules"`
	Mounts            []MountOption
	Mount             []MountOption
	Volumes           []string
	Tmpfs             []string

	HostNetwork      bool     `json:"host_network"`
	NetworkMode      string   `json:"network_mode"`
	HostDNS          *bool    `json:"host_dns"`
	DNSServers       []string `json:"dns_servers"`
	DNSSearchDomains []string `json:"dns_search_domains"`
	DNSOptions       []string `json:"dns_options"`
	ExtraHosts       []string `json:"extra_hosts"`
	Ports            []string
}

type MountOption struct {
	Type        string
	Target      string
	Source      string
	Options     []string
	Readonly    *bool
	BindOptions *struct {
		Propagation string
	} `json:"bind_options"`
	TmpfsOptions *struct {
		Size string
		Mode *uint32
	} `json:"tmpfs_options"`
}

type DeviceOption struct {
	HostPath          string `json:"host_path"`
	ContainerPath     string `json:"container_path"`
	CgroupPermissions string `json:"cgroup_permissions"`
}

// UnmarshalJSON reads the block, or Docker's short form of it: a path, `host:container:permissions`, or a CDI name.
func (d *DeviceOption) UnmarshalJSON(text []byte) error {
	if text[0] != '"' {
		type block DeviceOption
		return json.Unmarshal(text, (*block)(d))
	}
	var short string
	if err := json.Unmarshal(text, &short); err != nil {
		return err
	}
	parts := strings.Split(short, ":")
	d.HostPath = parts[0]
	switch {
	case len(parts) == 2 && strings.Trim(parts[1], "rwm") == "":
		d.CgroupPermissions = parts[1]
	case len(parts) > 1:
		d.ContainerPath = parts[1]
	}
	if len(parts) > 2 {
		d.CgroupPermissions = parts[2]
	}
	return nil
}

func parseOptions(text []byte) (*Options, error) {
	o := &Options{}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(o); err != nil {
		return nil, err
	}
	first := func(names ...string) string {
		for _, name := range names {
			if name != "" {
				return name
			}
		}
		return ""
	}
	o.Cwd = first(o.Cwd, o.WorkDir, o.WorkingDir)
	o.AppArmorProfile = first(o.AppArmorProfile, o.AppArmor)
	o.UserNS = first(o.UserNS, o.UserNSMode)
	o.Mounts = append(o.Mounts, o.Mount...)
	o.HostNetwork = o.HostNetwork || o.NetworkMode == "host"
	return o, nil
}
