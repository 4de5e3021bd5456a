package rig

import (
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sentryagent/agentidp/pkg/devservers"
)

// ServedBy is the header of an answer that came through the proxy with the replica that gave it; it is on the proxy's own
// answers too, with the replica that failed it or none.
const ServedBy = "X-Served-By"

// proxy is a HAProxy before all replicas. It is to the world what an ingress is: every request goes to the next replica,
// over a connection that was open already where there is one. And it is to the services what a Service of Kubernetes is:
// a connection goes to the next replica, and stays there.
//
// It must not hide a failure from who asks: it never sends a request again and never chooses a second replica (retries 0,
// no redispatch), checks nobody's health, and keeps sending to a replica until it is told not to. Whoever answers the first
// request on a connection that was used before fails it as any other (http-reuse always).
type proxy struct {
	*child

	socket string // of its administration
	world  string // host:port
	inside map[string]string
}

const (
	proxyName = "proxy"
	// Longer than clients and services keep idle connections, so that it is they who end them.
	proxySettings = `global
  stats socket %[1]s mode 600 level admin
  maxconn 4096
defaults
  timeout connect 5s
  timeout client 75s
  timeout server 75s
  balance roundrobin
  retries 0
  no option redispatch
  log stdout format raw daemon
  option dontlog-normal
frontend world
  mode http
  bind %[2]s
  option forwardfor
  http-request capture req.hdr(X-Request-ID) len 64
  http-after-response set-header ` + ServedBy + ` %%s
  log-format "%%HM %%HP: %%ST %%ts at %%s after %%Ta ms, request %%[capture.req.hdr(0)]"
  use_backend credentials if { path_reg ^/api/v1/agents/[^/]+/credentials(/|$) }
  use_backend registry if { path_beg /api/v1/agents }
  use_backend audit if { path_beg /api/v1/audit }
  default_backend token
`
	proxyService = `backend %[1]s
  mode http
  http-reuse always
listen %[1]s-inside
  mode tcp
  bind %[2]s
  log-format "connection to %[1]s: %%ts at %%s after %%Tt ms"
`
)

// startProxy starts it with nobody behind it.
func (r *Rig) startProxy(ctx context.Context) error {
	program, err := devservers.FindHAProxy()
	if err != nil {
		return err
	}
	p := &proxy{socket: filepath.Join(r.dir, "proxy.sock"), inside: map[string]string{}}
	if p.world, err = r.freeAddress(ctx); err != nil {
		return err
	}
	settings := fmt.Sprintf(proxySettings, p.socket, p.world)
	for _, service := range Services() {
		if p.inside[service], err = r.freeAddress(ctx); err != nil {
			return err
		}
		settings += fmt.Sprintf(proxyService, service, p.inside[service])
	}
	file := filepath.Join(r.dir, "proxy.cfg")
	if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
		return fmt.Errorf("settings of the proxy: %w", err)
	}
	cmd := exec.Command(program, "-db", "-f", file) //nolint:gosec,noctx // found by FindHAProxy; outlives ctx
	if p.child, err = startChild("haproxy", filepath.Join(r.dir, proxyName+".log"), cmd); err != nil {
		return err
	}
	r.proxy = p
	return r.until(ctx, p.child, func() error { _, err := p.tell("show info"); return err })
}

// freeAddress is a free port of this machine, host:port.
func (r *Rig) freeAddress(ctx context.Context) (string, error) {
	port, err := r.freePort(ctx)
	return net.JoinHostPort(loopback, port), err
}

// tell gives the proxy a command and answers what it says to it.
func (p *proxy) tell(command string) (string, error) {
	connection, err := (&net.Dialer{Timeout: time.Second}).Dial("unix", p.socket)
	if err != nil {
		return "", fmt.Errorf("proxy: %w", err)
	}
	defer func() { _ = connection.Close() }()
	if _, err := io.WriteString(connection, command+"\n"); err != nil {
		return "", fmt.Errorf("proxy: %w", err)
	}
	answer, err := io.ReadAll(connection)
	return string(answer), err
}

// change gives a command for one replica, once for the world and once for the services.
func (p *proxy) change(command, name, more, said string) error {
	for _, side := range []string{"", "-inside"} {
		answer, err := p.tell(fmt.Sprintf("%s %s%s/%s%s", command, Program(name), side, name, more))
		if answer = strings.TrimSpace(answer); err != nil || answer != said {
			return fmt.Errorf("proxy: %s %s: %q, %w", command, name, answer, err)
		}
	}
	return nil
}

// Entrance is where the world reaches all services through the proxy, host:port.
func (r *Rig) Entrance() string { return r.proxy.world }

// Admit has the proxy send to a replica from now on.
func (r *Rig) Admit(name string) error {
	s := r.services[name]
	for side, address := range map[string]string{"": s.public, "-inside": s.internal} {
		answer, err := r.proxy.tell(fmt.Sprintf("add server %s%s/%s %s", Program(name), side, name, address))
		if err != nil || !strings.Contains(answer, "New server registered") {
			return fmt.Errorf("proxy: add %s: %q, %w", name, strings.TrimSpace(answer), err)
		}
	}
	return r.proxy.change("enable server", name, "", "")
}

// Dismiss has the proxy send no new requests and connections to a replica. What is under way goes on, as do connections
// between services.
func (r *Rig) Dismiss(name string) error {
	return r.proxy.change("set server", name, " state maint", "")
}

// Passed is what the proxy counted of a replica, or of all where Name is that of no replica.
type Passed struct {
	Name string
	// Requests of the world.
	Requests int64
	// Again counts those, and connections between services, that were tried a second time.
	Again int64
	// Refused counts connections that the replica did not take, Broken answers that ended before their time.
	Refused, Broken int64
}

// Passed is what went through the proxy, by replica.
func (r *Rig) Passed() (map[string]Passed, error) {
	answer, err := r.proxy.tell("show stat")
	if err != nil {
		return nil, err
	}
	return readPassed(answer)
}

// readPassed reads the table of "show stat": one line for each side of every replica, beside those of each side of a service.
func readPassed(table string) (map[string]Passed, error) {
	rows, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(table, "# "))).ReadAll()
	if err != nil || len(rows) == 0 {
		return nil, fmt.Errorf("statistics of the proxy: %w", err)
	}
	column := map[string]int{}
	for i, name := range rows[0] {
		column[name] = i
	}
	all := map[string]Passed{}
	for _, row := range rows[1:] {
		name := row[column["svname"]]
		if name == "FRONTEND" || name == "BACKEND" {
			continue
		}
		count := func(of string) int64 {
			number, _ := strconv.ParseInt(row[column[of]], 10, 64) // empty where it does not apply
			return number
		}
		p := all[name]
		p.Name = name
		p.Again += count("wretr") + count("wredis")
		p.Refused += count("econ")
		p.Broken += count("eresp")
		if !strings.HasSuffix(row[column["pxname"]], "-inside") {
			p.Requests += count("stot")
		}
		all[name] = p
	}
	return all, nil
}
