package token

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/services/token/internal/keys"
	"github.com/sentryagent/agentidp/services/token/internal/postgres"
)

// keysTimeout bounds one command about keys.
const keysTimeout = 30 * time.Second

// KeysUsage says what Keys can be told.
const KeysUsage = `keys list [--all] [--json]   the signing keys and their states; --all: those that are gone too
keys rotate [--json]         publish a new key, which signs after KEY_PROPAGATION
keys retire [--json] KID     take a key out at once: what it signed does not verify any more`

// keysConfig is all that commands about keys need; nothing else has to be set.
type keysConfig struct {
	Database pgdb.Config
	Keys     KeyConfig
}

// Keys lists, rotates or retires signing keys, as args say (KeysUsage), and writes what came of it to out: a table, or
// one JSON document. Running replicas follow within seconds.
func Keys(ctx context.Context, args []string, out io.Writer, opts ...config.Option) error {
	command, err := parseKeys(args)
	if err != nil {
		return err
	}
	var cfg keysConfig
	if err := config.Load(&cfg, append([]config.Option{config.Prefix(serviceName)}, opts...)...); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, keysTimeout)
	defer cancel()
	db, err := pgdb.Open(ctx, cfg.Database, nil)
	if err != nil {
		return err
	}
	defer db.Close()
	sealer, err := keys.NewSealer(cfg.Keys.EncryptionKey.Reveal())
	if err != nil {
		return fmt.Errorf("KEY_ENCRYPTION_KEY: %w", err)
	}
	return command.run(ctx, out, keys.NewCustodian(keys.CustodianConfig{
		Store: postgres.NewKeys(db, nil), Sealer: sealer, Propagation: cfg.Keys.Propagation,
	}))
}

// CheckKeys says what is wrong with args, as Keys does before it needs any settings.
func CheckKeys(args []string) error {
	_, err := parseKeys(args)
	return err
}

// keysCommand is a command line about keys, understood.
type keysCommand struct {
	name      string
	kid       string
	all, json bool
}

// parseKeys knows its options by their names alone, as the id of a key may begin with a dash.
func parseKeys(args []string) (keysCommand, error) {
	wrong := func(problem string) (keysCommand, error) {
		return keysCommand{}, fmt.Errorf("%s\n%s", problem, KeysUsage)
	}
	if len(args) == 0 {
		return wrong("keys: say what to do")
	}
	command := keysCommand{name: args[0]}
	var kids []string
	for _, arg := range args[1:] {
		switch {
		case arg == "--json":
			command.json = true
		case arg == "--all" && command.name == "list":
			command.all = true
		default:
			kids = append(kids, arg)
		}
	}
	switch command.name {
	case "list", "rotate":
		if len(kids) > 0 {
			return wrong(fmt.Sprintf("keys %s: does not take %q", command.name, kids[0]))
		}
	case "retire":
		if len(kids) != 1 {
			return wrong("keys retire: name one key by its kid")
		}
		command.kid = kids[0]
	default:
		return wrong(fmt.Sprintf("keys: unknown command %q", command.name))
	}
	return command, nil
}

func (c keysCommand) run(ctx context.Context, out io.Writer, custodian *keys.Custodian) error {
	switch c.name {
	case "rotate":
		key, err := custodian.Rotate(ctx)
		if err != nil {
			return fmt.Errorf("rotate: %w", err)
		}
		return c.report(out, key, fmt.Sprintf("%s is published and signs from %s.", key.ID, written(key.SignsFrom)))
	case "retire":
		key, err := custodian.Retire(ctx, c.kid)
		if err != nil {
			return fmt.Errorf("retire %s: %w", c.kid, err)
		}
		return c.report(out, key, fmt.Sprintf("%s is gone; %s signs.", c.kid, key.ID))
	default:
		list, err := custodian.List(ctx, c.all)
		if err != nil {
			return fmt.Errorf("list: %w", err)
		}
		if c.json {
			return writeJSON(out, list)
		}
		return writeTable(out, list)
	}
}

// report tells of one key: in a sentence, or as JSON.
func (c keysCommand) report(out io.Writer, key keys.Key, sentence string) error {
	if c.json {
		return writeJSON(out, key)
	}
	_, err := fmt.Fprintln(out, sentence)
	return err
}

func writeJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

func writeTable(out io.Writer, list []keys.Key) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, err := fmt.Fprintln(table, "KID\tALG\tSTATE\tCREATED\tSIGNS FROM\tSIGNED UNTIL\tGONE AT")
	for _, key := range list {
		_, failed := fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", key.ID, key.Algorithm, key.State,
			written(&key.CreatedAt), written(key.SignsFrom), written(key.SignedUntil), written(key.GoneAt))
		err = errors.Join(err, failed)
	}
	return errors.Join(err, table.Flush())
}

func written(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.Format(time.RFC3339)
}
