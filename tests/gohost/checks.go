package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// identity is what a plugin says of itself; every launch must say the same.
type identity struct {
	kind          int64
	api           []string
	version, name string
}

func checks(r *report, path, directory string, mtls bool) {
	r.check("without-cookie-explains-and-exits-1", func(ctx context.Context) error { return withoutCookie(ctx, path) })

	var first identity
	if !probe(r, path, &first) {
		return
	}
	config(r, path)
	services(r, path, first)
	r.check("reattached-client-is-served-and-kills", func(ctx context.Context) error { return reattached(ctx, path, first) })
	r.check("three-instances-side-by-side", func(ctx context.Context) error { return threeAtOnce(ctx, path, first) })
	r.check("socket-directory-of-the-host-is-used", func(context.Context) error { return socketDirectory(path) })
	r.check("agent-crash-leaves-the-plugin-usable", func(ctx context.Context) error { return rawConnections(ctx, path, first) })
	if mtls {
		r.check("auto-mtls", func(context.Context) error { return autoMTLS(path) })
	}
	r.check("no-socket-left-behind", func(context.Context) error { return empty(directory) })
}

// probe is launch A of an agent's start: identity and schema, then the end. Nothing else makes sense if it fails.
func probe(r *report, path string, first *identity) bool {
	var plugin *instance
	if !r.check("handshake", func(context.Context) (err error) {
		plugin, err = launch(path)
		return err
	}) {
		return false
	}
	r.check("negotiated-version-2-grpc-unix", func(context.Context) error {
		attach := plugin.client.ReattachConfig()
		if version, protocol, network := plugin.client.NegotiatedVersion(), plugin.client.Protocol(), attach.Addr.Network(); version != 2 ||
			protocol != goplugin.ProtocolGRPC || network != "unix" {
			return fmt.Errorf("version %d, protocol %s, network %s", version, protocol, network)
		}
		return nil
	})
	r.check("ping-by-health-service", func(context.Context) error { return plugin.ping() })
	r.check("health-of-unknown-service-is-not-found", func(ctx context.Context) error {
		request := newMessage("HealthCheckRequest").with("service", "nothing")
		_, err := call(ctx, plugin.conn, "/grpc.health.v1.Health/Check", request, "Empty")
		return expect(err, codes.NotFound)
	})
	r.check("plugin-info", func(ctx context.Context) (err error) {
		*first, err = pluginInfo(ctx, plugin.conn)
		return err
	})
	r.check("config-schema", func(ctx context.Context) error { return sameSchemaTwice(ctx, plugin.conn, base+"ConfigSchema") })
	r.check("probe-ends-when-killed", func(context.Context) error { return plugin.kill() })
	return true
}

// config is launch B: the configuration twice, without anything of the node, then the end.
func config(r *report, path string) {
	var plugin *instance
	if !r.check("second-launch", func(context.Context) (err error) {
		plugin, err = launch(path)
		return err
	}) {
		return
	}
	r.check("set-config-twice-without-nomad-config", func(ctx context.Context) error {
		names, err := schemaNames(ctx, plugin.conn, base+"ConfigSchema")
		if err != nil {
			return err
		}
		for range 2 {
			if err := setConfig(ctx, plugin.conn, allNil(names, settings), false); err != nil {
				return err
			}
		}
		return nil
	})
	r.check("set-config-of-no-bytes", func(ctx context.Context) error { return setConfig(ctx, plugin.conn, nil, false) })
	r.check("config-probe-ends-when-killed", func(context.Context) error { return plugin.kill() })
}

// services is launch C: what the agent keeps.
func services(r *report, path string, first identity) {
	var plugin *instance
	if !r.check("third-launch", func(context.Context) (err error) {
		plugin, err = launch(path)
		return err
	}) {
		return
	}
	conn := plugin.conn
	r.check("set-config-with-nomad-config", func(ctx context.Context) error {
		names, err := schemaNames(ctx, conn, base+"ConfigSchema")
		if err != nil {
			return err
		}
		return setConfig(ctx, conn, allNil(names, settings), true)
	})
	r.check("init-twice", func(ctx context.Context) error {
		for range 2 {
			if _, err := call(ctx, conn, driver+"Init", newMessage("Empty"), "Empty"); err != nil {
				return err
			}
		}
		return nil
	})
	r.check("task-config-schema", func(ctx context.Context) error { return sameSchemaTwice(ctx, conn, driver+"TaskConfigSchema") })
	r.check("capabilities", func(ctx context.Context) error { return capabilities(ctx, conn) })
	r.check("fingerprint-at-once-and-stays-open", func(context.Context) error { return fingerprint(conn) })
	r.check("task-events-stays-open", func(context.Context) error { return quiet(conn, driver+"TaskEvents", time.Second) })
	r.check("unknown-task-is-an-application-error", func(ctx context.Context) error { return unknownTask(ctx, conn) })
	r.check("stats-of-an-unknown-task-are-not-found", func(ctx context.Context) error { return unknownStats(ctx, conn) })
	r.check("unknown-method-is-unimplemented", func(ctx context.Context) error {
		for _, method := range []string{driver + "NoSuchMethod", "/no.such.Service/Method"} {
			if _, err := call(ctx, conn, method, newMessage("Empty"), "Empty"); status.Code(err) != codes.Unimplemented {
				return expect(err, codes.Unimplemented)
			}
		}
		return nil
	})
	r.check("request-of-6-mib-is-decoded", func(ctx context.Context) error { return largeRequest(ctx, conn) })
	r.check("five-hundred-streams", func(ctx context.Context) error { return manyStreams(ctx, conn, first) })
	r.check("interrupt-is-ignored", func(ctx context.Context) error {
		if err := plugin.cmd.Process.Signal(syscall.SIGINT); err != nil {
			return err
		}
		time.Sleep(200 * time.Millisecond)
		return sameIdentity(ctx, conn, first)
	})
	r.check("driver-shutdown-then-kill", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		if _, err := call(ctx, conn, driver+"Shutdown", newMessage("Empty"), "Empty"); err != nil {
			return err
		}
		return plugin.kill()
	})
	r.check("log-lines-parse", func(context.Context) error { return plugin.logLines() })
}

func withoutCookie(ctx context.Context, path string) error {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir()}
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &exit):
		return err
	case cmd.ProcessState.ExitCode() != 1:
		return fmt.Errorf("%v, expected exit status 1", cmd.ProcessState)
	case stdout.Len() != 0:
		return fmt.Errorf("stdout is not empty: %q", stdout.String())
	case stderr.Len() == 0:
		return errors.New("nothing on stderr")
	}
	return nil
}

func pluginInfo(ctx context.Context, conn *grpc.ClientConn) (identity, error) {
	info, err := call(ctx, conn, base+"PluginInfo", newMessage("Empty"), "PluginInfoResponse")
	if err != nil {
		return identity{}, err
	}
	seen := identity{info.num("type"), info.strs("plugin_api_versions"), info.str("plugin_version"), info.str("name")}
	var major, minor, patch int
	_, bad := fmt.Sscanf(strings.TrimPrefix(seen.version, "v"), "%d.%d.%d", &major, &minor, &patch)
	switch {
	case seen.kind != 2:
		return seen, fmt.Errorf("type %d, expected 2 (driver)", seen.kind)
	case !slices.Contains(seen.api, "v0.1.0"):
		return seen, fmt.Errorf("API versions %q lack v0.1.0", seen.api)
	case bad != nil:
		return seen, fmt.Errorf("version %q does not parse", seen.version)
	case seen.name == "":
		return seen, errors.New("no name")
	}
	return seen, nil
}

func sameIdentity(ctx context.Context, conn *grpc.ClientConn, first identity) error {
	seen, err := pluginInfo(ctx, conn)
	if err == nil && !reflect.DeepEqual(seen, first) {
		err = fmt.Errorf("%v, in the first launch %v", seen, first)
	}
	return err
}

func schemaNames(ctx context.Context, conn *grpc.ClientConn, method string) ([]string, error) {
	schema, err := call(ctx, conn, method, newMessage("Empty"), "SchemaResponse")
	if err != nil {
		return nil, err
	}
	return schema.attributes()
}

func sameSchemaTwice(ctx context.Context, conn *grpc.ClientConn, method string) error {
	var seen [2]message
	for i := range seen {
		var err error
		if seen[i], err = call(ctx, conn, method, newMessage("Empty"), "SchemaResponse"); err != nil {
			return err
		}
		names, err := seen[i].attributes()
		if err != nil {
			return err
		}
		if len(names) == 0 {
			return errors.New("the schema has no option")
		}
	}
	first, _ := seen[0].attributes()
	second, _ := seen[1].attributes()
	if !slices.Equal(first, second) {
		return fmt.Errorf("the second answer differs: %q and %q", first, second)
	}
	return nil
}

func setConfig(ctx context.Context, conn *grpc.ClientConn, config []byte, withNode bool) error {
	request := newMessage("SetConfigRequest").with("msgpack_config", config).with("plugin_api_version", "v0.1.0")
	if withNode {
		ports := newMessage("NomadDriverConfig").with("ClientMaxPort", uint32(14512)).with("ClientMinPort", uint32(14000))
		node := newMessage("NomadConfig").with("driver", protoreflect.Message(ports.Message))
		request.with("nomad_config", protoreflect.Message(node.Message))
	}
	start := time.Now()
	if _, err := call(ctx, conn, base+"SetConfig", request, "Empty"); err != nil {
		return err
	}
	if took := time.Since(start); took > time.Second {
		return fmt.Errorf("took %v, limit 1s", took)
	}
	return nil
}

func capabilities(ctx context.Context, conn *grpc.ClientConn) error {
	answer, err := call(ctx, conn, driver+"Capabilities", newMessage("Empty"), "CapabilitiesResponse")
	if err != nil {
		return err
	}
	if !answer.has("capabilities") {
		return errors.New("null message")
	}
	inner := answer.Get(answer.field("capabilities")).Message()
	fields := inner.Descriptor().Fields()
	if isolation := inner.Get(fields.ByName("fs_isolation")).Int(); isolation != 2 {
		return fmt.Errorf("file system isolation %d, expected 2 (image)", isolation)
	}
	for _, name := range []protoreflect.Name{"send_signals", "exec"} {
		if !inner.Get(fields.ByName(name)).Bool() {
			return fmt.Errorf("%s is false", name)
		}
	}
	if inner.Get(fields.ByName("network_isolation_modes")).List().Len() == 0 {
		return errors.New("no network isolation modes")
	}
	return nil
}

// fingerprint wants the first message at once, a description in it, and no end of the stream: the agent would open it
// again without a pause.
func fingerprint(conn *grpc.ClientConn) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := open(ctx, conn, driver+"Fingerprint", newMessage("Empty"))
	if err != nil {
		return err
	}
	first, err := receive(stream, "FingerprintResponse", time.Second)
	if err != nil {
		return fmt.Errorf("first message: %w", err)
	}
	if text := first.str("err"); text != "" {
		return fmt.Errorf("err is set: %s", text)
	}
	if first.str("health_description") == "" {
		return errors.New("no description of the health")
	}
	return still(stream, time.Second)
}

var errNothing = errors.New("nothing came")

// receive waits for one message of the stream.
func receive(stream grpc.ClientStream, kind string, limit time.Duration) (message, error) {
	answer := newMessage(kind)
	done := make(chan error, 1)
	go func() { done <- stream.RecvMsg(answer.Message) }()
	select {
	case err := <-done:
		return answer, err
	case <-time.After(limit):
		return answer, fmt.Errorf("%w within %v", errNothing, limit)
	}
}

// still accepts messages but not an end of the stream.
func still(stream grpc.ClientStream, limit time.Duration) error {
	end := time.Now().Add(limit)
	for {
		_, err := receive(stream, "Empty", time.Until(end))
		if errors.Is(err, errNothing) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the stream ended: %w", err)
		}
	}
}

func quiet(conn *grpc.ClientConn, method string, limit time.Duration) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := open(ctx, conn, method, newMessage("Empty"))
	if err != nil {
		return err
	}
	return still(stream, limit)
}

// unknownTask allows any answer but the ones which the agent takes for the death of the plugin.
func unknownTask(ctx context.Context, conn *grpc.ClientConn) error {
	for _, method := range []string{"WaitTask", "StopTask", "InspectTask", "SignalTask", "DestroyTask", "ExecTask"} {
		_, err := call(ctx, conn, driver+method, newMessage("TaskIdRequest").with("task_id", "no-such-task"), "Empty")
		switch status.Code(err) {
		case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded, codes.Unimplemented:
			return fmt.Errorf("%s: %w", method, err)
		case codes.OK:
			if method == "ExecTask" {
				return errors.New("a command ran in a task that is not there")
			}
		}
	}
	return nil
}

// unknownStats wants NOT_FOUND at once: the agent asks again each interval while it looks at a task that is gone.
func unknownStats(ctx context.Context, conn *grpc.ClientConn) error {
	stream, err := open(ctx, conn, driver+"TaskStats", newMessage("TaskIdRequest").with("task_id", "no-such-task"))
	if err != nil {
		return err
	}
	_, err = receive(stream, "Empty", time.Second)
	if status.Code(err) != codes.NotFound {
		return fmt.Errorf("NOT_FOUND is expected, not %v", err)
	}
	return nil
}

func largeRequest(ctx context.Context, conn *grpc.ClientConn) error {
	config := allNil(nil, map[string]string{"no_such_option": strings.Repeat("x", 6<<20)})
	request := newMessage("SetConfigRequest").with("msgpack_config", config)
	_, err := call(ctx, conn, base+"SetConfig", request, "Empty")
	switch status.Code(err) {
	case codes.ResourceExhausted, codes.OutOfRange, codes.Unavailable, codes.Internal:
		return err
	}
	return nil
}

// manyStreams holds 500 open streams: a server that limits them would leave the agent without an answer.
func manyStreams(ctx context.Context, conn *grpc.ClientConn, first identity) error {
	streams, cancel := context.WithCancel(ctx)
	defer cancel()
	for range 500 {
		if _, err := open(streams, conn, driver+"TaskEvents", newMessage("Empty")); err != nil {
			return err
		}
	}
	ctx, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	return sameIdentity(ctx, conn, first)
}

func reattached(ctx context.Context, path string, first identity) error {
	owner, err := launch(path)
	if err != nil {
		return err
	}
	defer owner.client.Kill()
	// A copy, without what only the launching client has.
	known := owner.client.ReattachConfig()
	second, err := reattach(&goplugin.ReattachConfig{
		Protocol: known.Protocol, ProtocolVersion: known.ProtocolVersion, Addr: known.Addr, Pid: known.Pid,
	})
	if err != nil {
		return fmt.Errorf("reattach: %w", err)
	}
	if err := second.ping(); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	if err := sameIdentity(ctx, second.conn, first); err != nil {
		return err
	}
	if _, err := call(ctx, second.conn, driver+"Init", newMessage("Empty"), "Empty"); err != nil {
		return fmt.Errorf("Init without SetConfig: %w", err)
	}
	if err := fingerprint(second.conn); err != nil {
		return fmt.Errorf("fingerprint: %w", err)
	}
	second.client.Kill()
	for end := time.Now().Add(2 * time.Second); !owner.client.Exited(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			return errors.New("still running 2 s after the kill")
		}
	}
	if code := owner.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("%v, expected exit status 0", owner.cmd.ProcessState)
	}
	if _, err := os.Lstat(owner.socket); err == nil {
		return fmt.Errorf("socket %s was left behind", owner.socket)
	}
	return nil
}

func threeAtOnce(ctx context.Context, path string, first identity) error {
	var group sync.WaitGroup
	var plugins [3]*instance
	var failures [3]error
	for i := range plugins {
		group.Go(func() {
			if plugins[i], failures[i] = launch(path); failures[i] == nil {
				failures[i] = sameIdentity(ctx, plugins[i].conn, first)
			}
		})
	}
	group.Wait()
	sockets := map[string]bool{}
	for i, plugin := range plugins {
		if plugin == nil {
			continue
		}
		sockets[plugin.socket] = true
		failures[i] = errors.Join(failures[i], plugin.kill())
		// The end of one must not touch the others.
		if next := (i + 1) % len(plugins); next != 0 && plugins[next] != nil {
			failures[i] = errors.Join(failures[i], sameIdentity(ctx, plugins[next].conn, first))
		}
	}
	if err := errors.Join(failures[:]...); err != nil {
		return err
	}
	if len(sockets) != len(plugins) {
		return fmt.Errorf("%d sockets for %d instances", len(sockets), len(plugins))
	}
	return nil
}

func socketDirectory(path string) error {
	directory, err := os.MkdirTemp("", "sockets")
	if err != nil {
		return err
	}
	defer os.RemoveAll(directory)
	plugin, err := launch(path, "PLUGIN_UNIX_SOCKET_DIR="+directory)
	if err != nil {
		return err
	}
	socket := plugin.socket
	if err := plugin.kill(); err != nil {
		return err
	}
	if filepath.Dir(socket) != directory {
		return fmt.Errorf("the socket was %s, expected in %s", socket, directory)
	}
	return nil
}

// rawConnections are the throw-away connections an agent makes before it reattaches, and some garbage.
func rawConnections(ctx context.Context, path string, first identity) error {
	plugin, err := launch(path)
	if err != nil {
		return err
	}
	for _, data := range []string{"", "", "GET / HTTP/1.0\r\n\r\n", "\x00\xff\x00"} {
		raw, err := net.Dial("unix", plugin.socket)
		if err != nil {
			return errors.Join(err, plugin.kill())
		}
		_, _ = raw.Write([]byte(data))
		_ = raw.Close()
	}
	return errors.Join(sameIdentity(ctx, plugin.conn, first), plugin.kill())
}

func autoMTLS(path string) error {
	config := clientConfig(&lockedBuffer{}, &lockedBuffer{})
	config.Cmd = exec.Command(path)
	config.AutoMTLS = true
	plugin := &instance{client: goplugin.NewClient(config), cmd: config.Cmd}
	if err := plugin.dispense(); err != nil {
		plugin.client.Kill()
		return err
	}
	plugin.socket = plugin.client.ReattachConfig().Addr.String()
	return errors.Join(plugin.ping(), plugin.kill())
}

func empty(directory string) error {
	entries, err := os.ReadDir(directory)
	if err == nil && len(entries) > 0 {
		var names []string
		for _, entry := range entries {
			names = append(names, entry.Name())
		}
		err = fmt.Errorf("left in the temporary directory: %q", names)
	}
	return err
}

func expect(err error, code codes.Code) error {
	if got := status.Code(err); got != code {
		return fmt.Errorf("status %v, expected %v: %w", got, code, err)
	}
	return nil
}
