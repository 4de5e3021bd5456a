package command

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/oauth2"

	"github.com/sentryagent/agentidp/cmd/agentidp/internal/auditor"
	"github.com/sentryagent/agentidp/pkg/auditlog"
	agentidp "github.com/sentryagent/agentidp/sdk"
)

const verifyLong = `Checks that the audit trail is what was logged: offline, from the files of an
export, or online, from the URL of the provider. It trusts the public key of the
log and nothing else.

  --file a.ndjson --file b.ndjson   an export, in parts as they follow each other
  --proof proof.json                the proof of one event
  --url https://idp.example.com     everything the provider has (needs audit:read)
  --url ... --head-only             only that the log goes on from the last time
  --url ... --new                   only events since the last time, and that
                                    (also with --file: the export begins there)
  --url ... --event ID              one event

With --state the last checkpoint that was believed is kept in a file, and a log
that does not go on from it is refused; one event changes nothing there. A file
may be older than that checkpoint: then nothing is said of how they belong
together (exit code 3), as only the newer one could show it. With --hashes the leaf hashes are kept as
well (32 bytes for each event): a past that was rewritten is then found event by
event.

For --url, AGENTIDP_TOKEN holds an access token, or AGENTIDP_CLIENT_ID and
AGENTIDP_CLIENT_SECRET the credential of an agent that may ask for audit:read.

Exit codes: 0 all that was read is what was logged; 1 it could not be read;
2 something was changed, removed, added or rewritten; 3 not enough to tell.`

// The exit codes of verify.
const (
	exitTampered = 2
	exitUnproven = 3
)

// exitError is an error with an exit code of its own.
type exitError struct {
	code int
	text string
}

func (e *exitError) Error() string { return e.text }

// ExitCode is what the program should exit with.
func (e *exitError) ExitCode() int { return e.code }

type verifyFlags struct {
	key       string
	witnesses []string
	files     []string
	proof     string
	url       string
	event     uuid.UUID // Nil where none is named
	headOnly  bool
	newOnly   bool
	state     string
	hashes    string
	retention int
	json      bool
}

func auditVerifyCommand(console Console) *cobra.Command {
	var given verifyFlags
	cmd := &cobra.Command{
		Use:   "verify --key PUBLIC (--file FILE... | --proof FILE | --url URL)",
		Short: "Check the audit trail",
		Long:  verifyLong,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runVerify(cmd.Context(), console, given)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&given.key, "key", "", "public key of the log, or a file that holds it")
	flags.StringArrayVar(&given.witnesses, "witness", nil, "public key of a witness that must have signed; may be repeated")
	flags.StringArrayVar(&given.files, "file", nil, "file of an export; may be repeated")
	flags.StringVar(&given.proof, "proof", "", "file with the answer of /audit/{eventId}/proof")
	flags.StringVar(&given.url, "url", "", "URL of the provider")
	flags.Func("event", "check only the event with this id", func(text string) (err error) {
		if given.event, err = uuid.Parse(text); err != nil || given.event == uuid.Nil {
			return errors.New("not the id of an event")
		}
		return nil
	})
	flags.BoolVar(&given.headOnly, "head-only", false, "check the checkpoint and read no events")
	flags.BoolVar(&given.newOnly, "new", false, "read only events since the checkpoint in --state")
	flags.StringVar(&given.state, "state", "", "file that keeps the last checkpoint")
	flags.StringVar(&given.hashes, "hashes", "", "file that keeps the leaf hashes")
	flags.IntVar(&given.retention, "retention-days", 0, "days for which events are kept, as agreed: older ones may be gone")
	flags.BoolVar(&given.json, "json", false, "print one JSON object")
	_ = cmd.MarkFlagRequired("key")
	cmd.MarkFlagsOneRequired("file", "proof", "url")
	cmd.MarkFlagsMutuallyExclusive("file", "proof", "url")
	cmd.MarkFlagsMutuallyExclusive("event", "head-only", "new")
	return cmd
}

func (f verifyFlags) validate() error {
	switch {
	case f.url == "" && f.headOnly:
		return errors.New("--head-only needs --url")
	case f.retention < 0:
		return errors.New("--retention-days must not be negative")
	case f.proof != "" && f.newOnly:
		return errors.New("--new needs --url or --file")
	case f.event != uuid.Nil && len(f.files) > 0:
		return errors.New("--event needs --url or --proof")
	case f.newOnly && f.state == "":
		return errors.New("--new needs --state, which says since when")
	case f.hashes != "" && (f.newOnly || f.headOnly || f.event != uuid.Nil || f.proof != ""):
		return errors.New("--hashes needs a whole export")
	}
	return nil
}

func runVerify(ctx context.Context, console Console, given verifyFlags) error {
	if err := given.validate(); err != nil {
		return err
	}
	log, witnesses, err := verifiers(given)
	if err != nil {
		return err
	}
	trail := auditor.NewTrail(log, witnesses...)
	trail.Retention(given.retention, time.Now())
	var since int64
	if given.state != "" {
		kept, ok, err := auditor.LoadCheckpoint(given.state, log)
		if err != nil {
			return err
		}
		if ok {
			trail.Keep(kept)
		}
		if since = kept.Size; !given.newOnly {
			since = 0
		}
		trail.From(since)
	}
	var known *auditor.Hashes
	if given.hashes != "" {
		if known, err = auditor.OpenHashes(given.hashes); err != nil {
			return err
		}
		defer func() { _ = known.Close() }()
		trail.Compare(known)
	}
	if err := readTrail(ctx, console, given, trail, since); err != nil {
		return err
	}
	report := trail.Report()
	if err := keep(given, trail, known, report); err != nil {
		return err
	}
	return judge(console, given, report)
}

// keep writes down what is believed now.
func keep(given verifyFlags, trail *auditor.Trail, known *auditor.Hashes, report *auditor.Report) error {
	believed := trail.Believed()
	if believed == nil {
		return nil
	}
	if known != nil && !report.Tampered() {
		if err := known.Save(trail.Solid()); err != nil {
			return fmt.Errorf("keep the hashes: %w", err)
		}
	}
	if given.state == "" {
		return nil
	}
	if err := auditor.SaveCheckpoint(given.state, believed); err != nil {
		return fmt.Errorf("keep the checkpoint: %w", err)
	}
	return nil
}

func judge(console Console, given verifyFlags, report *auditor.Report) error {
	write := report.WriteText
	if given.json {
		write = report.WriteJSON
	}
	if err := write(console.Out); err != nil {
		return err
	}
	switch {
	case report.Tampered():
		return &exitError{exitTampered, "this is not the trail that was logged"}
	case !report.Proven():
		return &exitError{exitUnproven, "not everything could be checked"}
	}
	return nil
}

func verifiers(given verifyFlags) (note.Verifier, []note.Verifier, error) {
	text, err := keyText(given.key)
	if err != nil {
		return nil, nil, fmt.Errorf("--key: %w", err)
	}
	log, err := auditor.LoadKey(text)
	if err != nil {
		return nil, nil, fmt.Errorf("--key: %w", err)
	}
	var witnesses []note.Verifier
	for _, given := range given.witnesses {
		text, err := keyText(given)
		if err != nil {
			return nil, nil, fmt.Errorf("--witness: %w", err)
		}
		witness, err := auditlog.NewCosignatureVerifier(text)
		if err != nil {
			return nil, nil, fmt.Errorf("--witness: %w", err)
		}
		witnesses = append(witnesses, witness)
	}
	return log, witnesses, nil
}

// keyText is a key given as itself or as the file that holds it. Keys have plus signs.
func keyText(given string) (string, error) {
	if strings.Count(given, "+") >= 2 {
		return given, nil
	}
	return keyFile(given)
}

func keyFile(path string) (string, error) {
	content, err := os.ReadFile(path) //nolint:gosec // the caller's own choice
	return strings.TrimSpace(string(content)), err
}

func readTrail(ctx context.Context, console Console, given verifyFlags, trail *auditor.Trail, since int64) error {
	switch {
	case given.proof != "":
		content, err := os.ReadFile(given.proof)
		if err != nil {
			return err
		}
		proof, err := auditor.ParseProof(content)
		if err != nil {
			return fmt.Errorf("%s is not a proof: %w", given.proof, err)
		}
		trail.Proof(proof, given.event)
		return nil
	case given.url == "":
		for _, path := range given.files {
			if err := readFile(trail, path); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
		return nil
	}
	client, err := auditClient(ctx, console, given.url, !given.headOnly)
	if err != nil {
		return err
	}
	if given.event == uuid.Nil {
		return auditor.Online(ctx, client, trail, since, given.headOnly)
	}
	return auditor.OnlineProof(ctx, client, trail, given.event)
}

func readFile(trail *auditor.Trail, path string) error {
	file, err := os.Open(path) //nolint:gosec // the caller's own choice
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	return trail.Read(file)
}

// answerTimeout bounds the wait for the beginning of an answer; an export takes as long as it takes.
const answerTimeout = time.Minute

// auditClient talks to the provider, with an access token if that is needed.
func auditClient(ctx context.Context, console Console, base string, authenticated bool) (*auditor.Client, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // the standard library's own
	transport.ResponseHeaderTimeout = answerTimeout
	plain := &http.Client{Transport: transport}
	if !authenticated {
		return auditor.NewClient(base, plain)
	}
	// The token is for base alone, and no route of a provider redirects.
	plain.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	env := func(key string) string { value, _ := console.Environ(key); return value }
	if token := env("AGENTIDP_TOKEN"); token != "" {
		source := oauth2.StaticTokenSource(&oauth2.Token{AccessToken: token})
		plain.Transport = &oauth2.Transport{Source: source, Base: transport}
		return auditor.NewClient(base, plain)
	}
	if env("AGENTIDP_CLIENT_ID") == "" || env("AGENTIDP_CLIENT_SECRET") == "" {
		return nil, errors.New("events need AGENTIDP_TOKEN, or AGENTIDP_CLIENT_ID and AGENTIDP_CLIENT_SECRET, in the environment")
	}
	client, err := agentidp.New(agentidp.Config{
		BaseURL: base, ClientID: env("AGENTIDP_CLIENT_ID"), ClientSecret: agentidp.Secret(env("AGENTIDP_CLIENT_SECRET")),
		Scopes: []string{"audit:read"}, HTTPClient: plain, UserAgent: "agentidp audit",
	})
	if err != nil {
		return nil, err
	}
	return auditor.NewClient(base, client.HTTPClient(ctx))
}
