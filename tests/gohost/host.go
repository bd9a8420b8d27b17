package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
)

// handshake is what Nomad's driver loader presents.
var handshake = goplugin.HandshakeConfig{
	ProtocolVersion:  2,
	MagicCookieKey:   "NOMAD_PLUGIN_MAGIC_COOKIE",
	MagicCookieValue: "e4327c2e01eabfd75a8a67adb114fb34a757d57eee7728d857a8cec6e91a7255",
}

// rawPlugin hands out the connection itself: the services are called by name.
type rawPlugin struct {
	goplugin.NetRPCUnsupportedPlugin
}

func (rawPlugin) GRPCServer(*goplugin.GRPCBroker, *grpc.Server) error {
	return fmt.Errorf("this program is only a host")
}

func (rawPlugin) GRPCClient(_ context.Context, _ *goplugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return conn, nil
}

// lockedBuffer collects what several goroutines write.
type lockedBuffer struct {
	mutex  sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) bytes() []byte {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return bytes.Clone(b.buffer.Bytes())
}

// instance is one plugin process, launched by this host or taken over from another client.
type instance struct {
	client *goplugin.Client
	cmd    *exec.Cmd
	conn   *grpc.ClientConn
	socket string
	stderr *lockedBuffer
	logs   *lockedBuffer
}

func clientConfig(logs, stderr io.Writer) *goplugin.ClientConfig {
	return &goplugin.ClientConfig{
		HandshakeConfig:  handshake,
		Plugins:          goplugin.PluginSet{"driver": rawPlugin{}},
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		Managed:          true,
		Stderr:           stderr,
		// Everything the plugin logs is parsed as in the agent, where a malformed line is a panic.
		Logger: hclog.New(&hclog.LoggerOptions{Name: "gohost", Level: hclog.Trace, Output: logs, JSONFormat: true}),
	}
}

// launch starts the plugin as the agent does. On an error nothing is left running.
func launch(path string, env ...string) (*instance, error) {
	plugin := &instance{cmd: exec.Command(path), stderr: &lockedBuffer{}, logs: &lockedBuffer{}}
	plugin.cmd.Env = env
	config := clientConfig(plugin.logs, plugin.stderr)
	config.Cmd = plugin.cmd
	plugin.client = goplugin.NewClient(config)
	addr, err := plugin.client.Start()
	if err == nil {
		plugin.socket = addr.String()
		err = plugin.dispense()
	}
	if err != nil {
		plugin.client.Kill()
		return nil, fmt.Errorf("%w%s", err, tail(plugin.stderr.bytes()))
	}
	return plugin, nil
}

// reattach connects to a running plugin as an agent does that comes back after a crash.
func reattach(config *goplugin.ReattachConfig) (*instance, error) {
	plugin := &instance{stderr: &lockedBuffer{}, logs: &lockedBuffer{}, socket: config.Addr.String()}
	options := clientConfig(plugin.logs, plugin.stderr)
	options.Reattach = config
	plugin.client = goplugin.NewClient(options)
	return plugin, plugin.dispense()
}

func (i *instance) dispense() error {
	protocol, err := i.client.Client()
	if err != nil {
		return err
	}
	raw, err := protocol.Dispense("driver")
	if err != nil {
		return err
	}
	i.conn = raw.(*grpc.ClientConn)
	return nil
}

func (i *instance) ping() error {
	protocol, err := i.client.Client()
	if err != nil {
		return err
	}
	return protocol.Ping()
}

// kill ends the plugin as the agent does and says what was wrong with the way it went.
func (i *instance) kill() error {
	start := time.Now()
	i.client.Kill()
	took := time.Since(start)
	switch state := i.cmd.ProcessState; {
	case state == nil:
		return fmt.Errorf("the process was not reaped")
	case state.ExitCode() != 0:
		return fmt.Errorf("%v after %v, expected exit status 0", state, took)
	case took >= 2*time.Second:
		return fmt.Errorf("took %v, limit 2s", took)
	}
	if _, err := os.Lstat(i.socket); err == nil {
		return fmt.Errorf("socket %s was left behind", i.socket)
	}
	return nil
}

// logLines checks the plugin's stderr: each line is an object the agent can parse.
func (i *instance) logLines() error {
	for _, line := range bytes.Split(i.stderr.bytes(), []byte("\n")) {
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		if len(line) >= 64<<10 {
			return fmt.Errorf("a line has %d bytes, limit 65535", len(line))
		}
		var object map[string]any
		if err := json.Unmarshal(line, &object); err != nil {
			return fmt.Errorf("no JSON object: %.200s", line)
		}
		for _, key := range []string{"@level", "@message", "@timestamp"} {
			if _, ok := object[key].(string); !ok {
				return fmt.Errorf("%s is no string: %.200s", key, line)
			}
		}
		if _, err := time.Parse("2006-01-02T15:04:05.000000Z07:00", object["@timestamp"].(string)); err != nil {
			return err
		}
	}
	return nil
}

// tail is the end of what the plugin said, for an error message.
func tail(output []byte) string {
	output = bytes.TrimSpace(output)
	if len(output) == 0 {
		return ""
	}
	if len(output) > 400 {
		output = output[len(output)-400:]
	}
	return fmt.Sprintf("; its stderr: %q", output)
}
