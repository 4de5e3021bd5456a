package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// maxSecretFile bounds NAME_FILE, in bytes; a private key has a few thousand.
const maxSecretFile = 64 << 10

type sources struct {
	prefix  string // "REGISTRY_", or ""
	values  map[string]string
	environ func(string) (string, bool)
}

// lookup is the value that is set for s, "" if none is. A variable that is
// set to nothing counts as not set, as compose files and charts leave many.
func (src sources) lookup(s Setting) (string, error) {
	type level struct {
		name string
		get  func(string) (string, bool)
	}
	fromValues := func(name string) (string, bool) { v, ok := src.values[name]; return v, ok }
	levels := []level{{s.Name, fromValues}, {s.Name, src.environ}}
	if src.prefix != "" {
		levels = append([]level{{src.prefix + s.Name, src.environ}}, levels...)
	}
	for _, l := range levels {
		value, _ := l.get(l.name)
		if s.Secret {
			path, _ := l.get(l.name + "_FILE")
			switch {
			case value != "" && path != "":
				return "", fmt.Errorf("%s and %s_FILE must not both be set", l.name, l.name)
			case path != "":
				return readSecret(path, l.name+"_FILE")
			}
		}
		if value != "" {
			return value, nil
		}
	}
	return "", nil
}

// readSecret reads a file without its last line break, which editors add.
func readSecret(path, variable string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", variable, err)
	}
	if info.IsDir() || info.Size() > maxSecretFile {
		return "", fmt.Errorf("%s: %s is no file of at most %d bytes", variable, path, maxSecretFile)
	}
	content, err := os.ReadFile(path) //nolint:gosec // G304: the operator names the file
	if err != nil {
		return "", fmt.Errorf("%s: %w", variable, err)
	}
	value := strings.TrimRight(string(content), "\r\n")
	if value == "" {
		return "", fmt.Errorf("%s: %s is empty", variable, path)
	}
	return value, nil
}

// parse stores text in field. Its errors follow the setting's name and value,
// and do not repeat the value.
func parse(field reflect.Value, text string) error {
	switch field.Interface().(type) {
	case time.Duration:
		d, err := parseDuration(text)
		field.SetInt(int64(d))
		return err
	case []string:
		field.Set(reflect.ValueOf(split(text)))
		return nil
	case []netip.Prefix:
		list, err := parsePrefixes(text)
		field.Set(reflect.ValueOf(list))
		return err
	}
	switch field.Kind() {
	case reflect.String:
		field.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return errors.New("is neither true nor false")
		}
		field.SetBool(b)
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, field.Type().Bits())
		if err != nil {
			return errors.New("is no whole number")
		}
		field.SetInt(n)
	default:
		return fmt.Errorf("cannot be read into a %s", field.Type())
	}
	return nil
}

func parseDuration(text string) (time.Duration, error) {
	if seconds, err := strconv.ParseInt(text, 10, 32); err == nil {
		return time.Duration(seconds) * time.Second, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, errors.New("is no duration such as 90s, 5m or a number of seconds")
	}
	return d, nil
}

func parsePrefixes(text string) ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, item := range split(text) {
		if addr, err := netip.ParseAddr(item); err == nil {
			addr = addr.Unmap().WithZone("")
			list = append(list, netip.PrefixFrom(addr, addr.BitLen()))
			continue
		}
		p, err := netip.ParsePrefix(item)
		if err != nil {
			return nil, fmt.Errorf("has %q, which is no network such as 10.0.0.0/8 and no address", item)
		}
		list = append(list, p.Masked())
	}
	return list, nil
}

// split cuts at commas; spaces around items and empty items count for nothing.
func split(text string) []string {
	var list []string
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	return list
}
