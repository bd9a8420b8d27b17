package main

import (
	"context"
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"sort"

	"github.com/bufbuild/protocompile"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

const (
	base   = "/hashicorp.nomad.plugins.base.proto.BasePlugin/"
	driver = "/hashicorp.nomad.plugins.drivers.proto.Driver/"
)

//go:embed plugin.proto
var source string

// messages are the compiled types of plugin.proto.
var messages protoreflect.MessageDescriptors

func compileProtocol() error {
	compiler := protocompile.Compiler{Resolver: &protocompile.SourceResolver{
		Accessor: protocompile.SourceAccessorFromMap(map[string]string{"plugin.proto": source}),
	}}
	files, err := compiler.Compile(context.Background(), "plugin.proto")
	if err != nil {
		return err
	}
	messages = files[0].Messages()
	return nil
}

// message is one dynamic protobuf message with access to its fields by name.
type message struct{ *dynamicpb.Message }

func newMessage(name string) message {
	return message{dynamicpb.NewMessage(messages.ByName(protoreflect.Name(name)))}
}

func (m message) field(name string) protoreflect.FieldDescriptor {
	field := m.Descriptor().Fields().ByName(protoreflect.Name(name))
	if field == nil {
		panic(fmt.Sprintf("plugin.proto: %s has no field %s", m.Descriptor().Name(), name))
	}
	return field
}

func (m message) has(name string) bool   { return m.Has(m.field(name)) }
func (m message) str(name string) string { return m.Get(m.field(name)).String() }
func (m message) num(name string) int64  { return m.Get(m.field(name)).Int() }

func (m message) strs(name string) []string {
	list := m.Get(m.field(name)).List()
	values := make([]string, list.Len())
	for i := range values {
		values[i] = list.Get(i).String()
	}
	return values
}

func (m message) with(name string, value any) message {
	m.Set(m.field(name), protoreflect.ValueOf(value))
	return m
}

// attributes are the sorted option names of a schema whose root is an object, or an error.
func (m message) attributes() ([]string, error) {
	if !m.has("spec") {
		return nil, fmt.Errorf("spec is null")
	}
	spec := m.Get(m.field("spec")).Message()
	kind := spec.WhichOneof(spec.Descriptor().Oneofs().ByName("block"))
	if kind == nil || kind.Name() != "object" {
		return nil, fmt.Errorf("the root of the spec is no object")
	}
	object := spec.Get(kind).Message()
	entries := object.Get(object.Descriptor().Fields().ByName("attributes")).Map()
	var names []string
	var bad error
	entries.Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
		node := value.Message()
		if node.WhichOneof(node.Descriptor().Oneofs().ByName("block")) == nil {
			bad = fmt.Errorf("option %q has a schema node of no kind", key.String())
		}
		names = append(names, key.String())
		return true
	})
	sort.Strings(names)
	return names, bad
}

// call makes one unary call; the answer is a message of the given type.
func call(ctx context.Context, conn *grpc.ClientConn, method string, request proto.Message, answer string) (message, error) {
	response := newMessage(answer)
	err := conn.Invoke(ctx, method, request, response.Message)
	return response, err
}

// open starts a server stream and sends its one request.
func open(ctx context.Context, conn *grpc.ClientConn, method string, request proto.Message) (grpc.ClientStream, error) {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(request); err != nil {
		return nil, err
	}
	return stream, stream.CloseSend()
}

// allNil is the msgpack form of a configuration in which every option was left out but the given ones.
func allNil(names []string, given map[string]string) []byte {
	entries := map[string][]byte{}
	for _, name := range names {
		entries[name] = []byte{0xc0}
	}
	for name, value := range given {
		entries[name] = text(value)
	}
	out := mapHead(len(entries))
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		out = append(append(out, text(name)...), entries[name]...)
	}
	return out
}

func mapHead(size int) []byte {
	if size < 16 {
		return []byte{0x80 | byte(size)}
	}
	return []byte{0xde, byte(size >> 8), byte(size)}
}

func text(value string) []byte {
	size := len(value)
	switch {
	case size < 32:
		return append([]byte{0xa0 | byte(size)}, value...)
	case size < 1<<8:
		return append([]byte{0xd9, byte(size)}, value...)
	case size < 1<<16:
		return append([]byte{0xda, byte(size >> 8), byte(size)}, value...)
	default:
		return append([]byte{0xdb, byte(size >> 24), byte(size >> 16), byte(size >> 8), byte(size)}, value...)
	}
}
