package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sentryagent/agentidp/cmd/agentidp/internal/auditor"
)

const exportLong = `Downloads the audit trail, one JSON object a line, as ` + "`agentidp audit verify --file`" + `
and a SIEM read it. A broken connection is gone on with. With --out, a second run
goes on where the first one ended, so that the same command fetches what is new.

--filter name=value picks events as GET /audit does (agentId, actorId, action,
outcome, fromDate, toDate), and proofs=true adds a proof to each of them.

For the access token, see ` + "`agentidp audit verify --help`" + `.`

type exportFlags struct {
	url     string
	out     string
	filters []string
}

func auditExportCommand(console Console) *cobra.Command {
	var given exportFlags
	cmd := &cobra.Command{
		Use:   "export --url URL [--out FILE]",
		Short: "Download the audit trail",
		Long:  exportLong,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runExport(cmd.Context(), console, given)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&given.url, "url", "", "URL of the provider")
	flags.StringVar(&given.out, "out", "", "file to write, or to go on with; standard output without")
	flags.StringArrayVar(&given.filters, "filter", nil, "name=value; may be repeated")
	_ = cmd.MarkFlagRequired("url")
	return cmd
}

func runExport(ctx context.Context, console Console, given exportFlags) (err error) {
	filter := url.Values{}
	for _, pair := range given.filters {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "cursor" || name == "format" {
			return fmt.Errorf("--filter %s: not a filter of the form name=value", pair)
		}
		filter.Add(name, value)
	}
	client, err := auditClient(ctx, console, given.url, true)
	if err != nil {
		return err
	}
	if given.out == "" {
		return download(ctx, client, filter, 0, console.Out)
	}
	file, err := os.OpenFile(given.out, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	whole, cursor, err := auditor.Resume(file)
	if err != nil {
		return fmt.Errorf("%s cannot be gone on with: %w", given.out, err)
	}
	if err := file.Truncate(whole); err != nil {
		return err
	}
	if _, err := file.Seek(whole, io.SeekStart); err != nil {
		return err
	}
	return errors.Join(download(ctx, client, filter, cursor, file), file.Sync())
}

func download(ctx context.Context, client *auditor.Client, filter url.Values, cursor int64, out io.Writer) error {
	w := bufio.NewWriter(out)
	err := client.Export(ctx, filter, cursor, func(raw []byte) error {
		_, _ = w.Write(raw)
		return w.WriteByte('\n')
	})
	return errors.Join(err, w.Flush())
}
