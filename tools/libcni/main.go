// libcni runs one call of the reference runtime library on a configuration list, and ends.
//
// It stands for a container runtime in Berth's tests: what containerd and CRI-O do to plugins (the
// chain and its order, prevResult, the result cache, GC's own DELs) is done here by the very library
// that they use, not by an imitation. Left out is everything that a runtime does around it: nothing
// is retried, no namespace is made, no configuration is chosen.
//
// Standard output holds one JSON document, or nothing: the result of an add, or the error.
// It ends with 0, with 1 if the library refused, with 2 for a wrong command line.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

// A caller's wishes, as the command line has them.
type order struct {
	verb, conflist, plugins, cache string
	container, netns, ifname       string
	args, capabilities, valid      string
}

// What a failed call prints. The numbers are a plugin's own, or 0 if it was the library that failed.
type failure struct {
	Code    uint   `json:"code"`
	Msg     string `json:"msg"`
	Details string `json:"details"`
	// Text is what a runtime would log: it names the plugin of the chain.
	Text string `json:"text"`
}

// Of the same form as a valid attachment of GC; `valid` is absent, null, or a list of these.
const absent = "absent"

func main() {
	order, err := read(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "libcni:", err)
		os.Exit(2)
	}
	if err := order.run(context.Background()); err != nil {
		answer := failure{Text: err.Error()}
		var refusal *types.Error
		if errors.As(err, &refusal) {
			answer.Code, answer.Msg, answer.Details = refusal.Code, refusal.Msg, refusal.Details
		}
		text, _ := json.Marshal(answer)
		fmt.Println(string(text))
		os.Exit(1)
	}
}

func read(line []string) (*order, error) {
	order := &order{}
	flags := flag.NewFlagSet("libcni", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: libcni -conflist FILE -plugins DIRS -cache DIR [flags] add|check|del|gc|status")
		flags.PrintDefaults()
	}
	flags.StringVar(&order.conflist, "conflist", "", "the configuration list")
	flags.StringVar(&order.plugins, "plugins", "", "folders with plugins, separated by colons")
	flags.StringVar(&order.cache, "cache", "", "the folder of the result cache")
	flags.StringVar(&order.container, "container", "", "the container id")
	flags.StringVar(&order.netns, "netns", "", "the path of the namespace; may be empty in a del")
	flags.StringVar(&order.ifname, "ifname", "eth0", "the interface's name")
	flags.StringVar(&order.args, "args", "", "CNI_ARGS: KEY=VALUE;KEY=VALUE")
	flags.StringVar(&order.capabilities, "capabilities", "", "capability arguments, a JSON object")
	flags.StringVar(&order.valid, "valid", absent, "gc: the attachments to keep: absent, null, or a JSON list of {containerID, ifname}")
	if err := flags.Parse(line); err != nil {
		return nil, err
	}
	if flags.NArg() != 1 {
		return nil, errors.New("exactly one of add, check, del, gc and status is wanted after the flags")
	}
	order.verb = flags.Arg(0)
	for name, value := range map[string]string{
		"conflist": order.conflist, "plugins": order.plugins, "cache": order.cache,
	} {
		if value == "" {
			return nil, fmt.Errorf("-%s is missing", name)
		}
	}
	return order, nil
}

func (o *order) run(ctx context.Context) error {
	list, err := libcni.ConfListFromFile(o.conflist)
	if err != nil {
		return err
	}
	library := libcni.NewCNIConfigWithCacheDir(filepath.SplitList(o.plugins), o.cache, nil)
	runtime, err := o.runtime()
	if err != nil {
		return err
	}
	switch o.verb {
	case "add":
		result, err := library.AddNetworkList(ctx, list, runtime)
		if err != nil {
			return err
		}
		return result.Print()
	case "check":
		return library.CheckNetworkList(ctx, list, runtime)
	case "del":
		return library.DelNetworkList(ctx, list, runtime)
	case "gc":
		kept, err := o.kept()
		if err != nil {
			return err
		}
		return library.GCNetworkList(ctx, list, kept)
	case "status":
		return library.GetStatusNetworkList(ctx, list)
	}
	return fmt.Errorf("%q is none of add, check, del, gc and status", o.verb)
}

func (o *order) runtime() (*libcni.RuntimeConf, error) {
	runtime := &libcni.RuntimeConf{ContainerID: o.container, NetNS: o.netns, IfName: o.ifname}
	for _, pair := range strings.FieldsFunc(o.args, func(c rune) bool { return c == ';' }) {
		key, value, found := strings.Cut(pair, "=")
		if !found {
			return nil, fmt.Errorf("-args: %q is not KEY=VALUE", pair)
		}
		runtime.Args = append(runtime.Args, [2]string{key, value})
	}
	if o.capabilities != "" {
		if err := json.Unmarshal([]byte(o.capabilities), &runtime.CapabilityArgs); err != nil {
			return nil, fmt.Errorf("-capabilities: %w", err)
		}
	}
	return runtime, nil
}

// The difference between no list and an empty one is the point: without arguments the library sends
// no key at all, with a nil list it sends null.
func (o *order) kept() (*libcni.GCArgs, error) {
	if o.valid == absent {
		return nil, nil
	}
	kept := &libcni.GCArgs{}
	if err := json.Unmarshal([]byte(o.valid), &kept.ValidAttachments); err != nil {
		return nil, fmt.Errorf("-valid: %w", err)
	}
	return kept, nil
}
