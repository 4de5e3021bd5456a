package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/cmd/agentidp/internal/atomicfile"
	"github.com/sentryagent/agentidp/cmd/agentidp/internal/bootstrap"
	"github.com/sentryagent/agentidp/cmd/agentidp/internal/ingress"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/devservers"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

// What is used when nobody says otherwise.
const (
	DefaultPort    = 8080
	DefaultDataDir = ".agentidp"
)

const bootstrapTimeout = 30 * time.Second

// Options say how to run.
type Options struct {
	// Port of the ingress on 127.0.0.1; 0 means any free one.
	Port int
	// ExactPort makes a taken port an error; else a free one is taken instead.
	ExactPort bool
	// DataDir keeps the state. It may be empty with Ephemeral: then it is a temporary directory.
	DataDir string
	// Ephemeral removes the data directory at the end.
	Ephemeral bool
	// Verbose shows the services' logs on Errors too.
	Verbose bool
	// Out gets the progress and the credentials of the operator.
	Out io.Writer
	// Errors gets the logs with Verbose.
	Errors io.Writer
	// Environ looks up an environment variable.
	Environ func(string) (string, bool)
}

// session is one run of Run.
type session struct {
	options  Options
	programs []program
	progress *progress
	dir      *dataDir
	keys     keys
	logs     *logs
	listener net.Listener
	ports    *portBlock
	layout   layout
	servers  *servers
	stack    *stack
	ingress  *ingress.Ingress

	stopIngress context.CancelFunc
	ingressDone chan error
}

// Run brings everything up, says so, and stays until ctx is done; then it stops everything in order and
// returns nil. It returns an error when something could not start or a service ended by itself.
func Run(ctx context.Context, options Options) error {
	return run(ctx, options, allPrograms())
}

func run(ctx context.Context, options Options, programs []program) error {
	s := &session{options: options, programs: programs, progress: newProgress(options.Out, time.Now)}
	err := s.start(ctx)
	if err == nil {
		err = s.stay(ctx)
	}
	if ctx.Err() != nil {
		err = nil // told to stop, whatever that interrupted
		s.progress.printf("\nStopping.\n")
	}
	if closed := s.close(); err == nil {
		err = closed
	}
	if err == nil {
		s.progress.printf("Stopped.\n")
	}
	return err
}

func (s *session) start(ctx context.Context) error {
	for _, part := range []func(context.Context) error{
		s.open, s.settle, s.install, s.serve, s.startServers, s.startServices, s.publish,
	} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// open takes the data directory and the public port.
func (s *session) open(ctx context.Context) (err error) {
	if s.dir, err = openDataDir(s.options.DataDir, s.options.Ephemeral); err != nil {
		return err
	}
	s.progress.printf("agentidp dev, data in %s\n\n", s.dir.path)
	var tee io.Writer
	if s.options.Verbose {
		tee = s.options.Errors
	}
	s.logs = newLogs(s.dir.join("logs"), tee)
	if s.listener, err = listenIngress(ctx, s.options.Port, s.options.ExactPort); err != nil {
		return err
	}
	if port := portOf(s.listener); s.options.Port != 0 && port != s.options.Port {
		s.progress.note("port %d is taken by another program; using %d", s.options.Port, port)
	}
	return nil
}

// settle computes all settings and has every service check its own, before anything starts.
func (s *session) settle(ctx context.Context) error {
	return s.progress.step("settings", func() (string, error) {
		_, err := os.Stat(s.dir.join("postgres", "PG_VERSION"))
		if s.keys, err = loadKeys(s.dir.join("secrets"), systemRandom(), err == nil); err != nil {
			return "", err
		}
		if s.ports, err = takePorts(ctx, portsNeeded(len(s.programs))); err != nil {
			return "", err
		}
		s.layout, err = makeLayout(layoutInput{
			programs: s.programs, environ: s.options.Environ, keys: s.keys, ports: s.ports.ports,
			baseURL: fmt.Sprintf("http://%s:%d", loopback, portOf(s.listener)),
		})
		if err != nil {
			return "", fmt.Errorf("settings that cannot be used: %w", err)
		}
		return "checked", s.checkPrograms()
	})
}

// checkPrograms has every service check its settings; what several say is said once.
func (s *session) checkPrograms() error {
	var said []string
	by := make(map[string][]string)
	for _, prog := range s.programs {
		err := prog.check(s.layout.options(prog.name, s.options.Environ)...)
		if err == nil {
			continue
		}
		text := err.Error()
		if by[text] == nil {
			said = append(said, text)
		}
		by[text] = append(by[text], prog.name)
	}
	if len(said) == 0 {
		return nil
	}
	for i, text := range said {
		said[i] = "  " + strings.Join(by[text], ", ") + ": " + text
	}
	return fmt.Errorf("settings that cannot be used:\n%s", strings.Join(said, "\n"))
}

// install brings the server programs that are missing onto this machine. Without Redis an embedded one
// does; without Postgres nothing works.
func (s *session) install(ctx context.Context) error {
	for _, note := range s.layout.notes {
		s.progress.note("%s", note)
	}
	missing := devservers.Missing()
	if len(missing) == 0 || !s.layout.needsPostgres && !s.layout.needsRedis {
		return nil
	}
	log, err := s.logs.open("install")
	if err != nil {
		return err
	}
	s.progress.note("not installed yet: %v; installing from the distribution (no server is started or changed by that)", missing)
	err = s.progress.step("install", func() (string, error) {
		return fmt.Sprint(missing), devservers.Install(ctx, io.MultiWriter(log, s.options.Out), missing)
	})
	if err == nil || ctx.Err() != nil {
		return err
	}
	if still := devservers.Missing(); len(still) == 1 && still[0] == "redis-server" {
		s.progress.note("going on without redis-server: %v", err)
		return nil
	}
	return err
}

// serve opens the ingress, which answers 503 until everything is there.
func (s *session) serve(ctx context.Context) (err error) {
	log, err := s.logs.open("ingress")
	if err != nil {
		return err
	}
	targets := make(map[ingress.Service]string)
	for name, service := range s.layout.services {
		targets[ingress.Service(name)] = service.publicURL
	}
	s.ingress, err = ingress.New(ingress.Config{
		Targets: targets, IssuerPath: s.layout.issuerPath(), TrustedProxies: s.layout.trusted,
		Log: telemetry.NewLogger(log, "ingress", "info"), NewID: uuid.New,
	})
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stopIngress, s.ingressDone = stop, make(chan error, 1)
	go func() { s.ingressDone <- s.ingress.Serve(serving, s.listener) }()
	return nil
}

func (s *session) startServers(ctx context.Context) error {
	s.servers = &servers{layout: s.layout, keys: s.keys, dir: s.dir, progress: s.progress, logs: s.logs}
	if err := s.servers.start(ctx); err != nil {
		return err
	}
	return s.servers.migrate(ctx)
}

func (s *session) startServices(ctx context.Context) error {
	return s.progress.step("services", func() (string, error) {
		s.stack = &stack{programs: s.programs, layout: s.layout, environ: s.options.Environ, logs: s.logs}
		return "ready", s.stack.start(ctx)
	})
}

// publish makes sure of the operator, writes what scripts read, and only then opens the ingress.
func (s *session) publish(ctx context.Context) error {
	var op operator
	err := s.progress.step("operator", func() (string, error) {
		var said string
		var err error
		if op, said, err = s.operator(ctx); err != nil {
			return "", err
		}
		if said == "" {
			said = op.clientID.String()
		}
		return said, s.handOver(op)
	})
	if err != nil {
		return err
	}
	s.ingress.Open()
	s.progress.printf("%s", welcome(s.layout.baseURL, op, s.dir, s.progress.elapsed(), proxied(s.options.Environ)))
	return nil
}

func (s *session) operator(ctx context.Context) (operator, string, error) {
	ctx, cancel := context.WithTimeout(ctx, bootstrapTimeout)
	defer cancel()
	log, err := s.logs.open("dev")
	if err != nil {
		return operator{}, "", err
	}
	tel, shutdown, err := telemetry.New(telemetry.WithOutput(ctx, log), telemetry.Config{LogLevel: "info"}, "dev")
	if err != nil {
		return operator{}, "", err
	}
	defer func() { _ = shutdown(ctx) }() // nothing is exported
	services, err := bootstrap.NewClients(bootstrap.Settings{
		RegistryURL:    config.URL(s.layout.services["registry"].internalURL),
		CredentialsURL: config.URL(s.layout.services["credentials"].internalURL),
		Token:          s.layout.internalToken,
	}, tel)
	if err != nil {
		return operator{}, "", err
	}
	return ensureOperator(ctx, services, s.dir.join("secrets", "operator.json"))
}

// handOver writes the files for scripts.
func (s *session) handOver(op operator) error {
	tokenFile := s.dir.join("internal-api.token")
	if err := atomicfile.Write(tokenFile, []byte(s.layout.internalToken.Reveal()+"\n"), 0o600); err != nil {
		return err
	}
	services := make(map[string]endpoint, len(s.programs))
	for name, service := range s.layout.services {
		services[name] = endpoint{PublicURL: service.publicURL, InternalURL: service.internalURL}
	}
	described := handoff{URL: s.layout.baseURL, InternalTokenFile: tokenFile, Services: services}
	if err := writeServicesFile(s.dir.join(servicesFileName), described); err != nil {
		return err
	}
	if err := s.handOverKeySettings(); err != nil {
		return err
	}
	if err := writeLogKeyFile(s.dir.join(logKeyFileName), s.layout.logKey(s.keys)); err != nil {
		return err
	}
	return writeOperatorFile(s.dir.join(operatorFileName), s.layout.baseURL, op)
}

// stay returns when ctx is done, or with the reason why the run cannot go on.
func (s *session) stay(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.stack.failed:
		return err
	case err := <-s.ingressDone:
		s.ingressDone <- err
		return err
	}
}

// close stops what was started, each part after those that lean on it: the ingress drains, then the
// services, then the servers go, then the directory is free.
func (s *session) close() error {
	var failures []error
	switch {
	case s.stopIngress != nil:
		s.stopIngress()
		failures = append(failures, <-s.ingressDone)
	case s.listener != nil:
		failures = append(failures, s.listener.Close())
	}
	if s.stack != nil {
		failures = append(failures, s.stack.close())
	}
	if s.servers != nil {
		s.servers.close()
	}
	if s.ports != nil {
		s.ports.release()
	}
	if s.logs != nil {
		failures = append(failures, s.logs.close())
	}
	if s.dir != nil {
		failures = append(failures, s.dir.close())
	}
	return errors.Join(failures...)
}
