package auditor_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/cmd/agentidp/internal/auditor"
	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

// row is an event as a database would hold it; nil where somebody took it away.
type row struct {
	index int64
	event []byte
}

// audit is an audit service in memory, whose database anybody may write to.
type audit struct {
	t        *testing.T
	signer   note.Signer
	verifier note.Verifier
	testkit.StoredHashes

	leaves   []tlog.Hash // the hash of each leaf as the log's tiles say it
	rows     []row
	dropped  []auditlog.DroppedDay
	cutAfter int // the connection breaks after so many lines of each export, 0 never
	sign     []note.Signer
}

func newAudit(t *testing.T, events int) *audit {
	t.Helper()
	key := testkit.AuditLogKey(t)
	a := &audit{t: t, signer: key.Signer, verifier: key.Verifier}
	a.add(events)
	return a
}

// add logs so many events, ten a day.
func (a *audit) add(events int) {
	a.t.Helper()
	for range events {
		n := int64(len(a.leaves))
		a.log(fmt.Appendf(nil, `{"action":"token.issued","eventId":"%s","n":%d,"timestamp":"%s"}`, uuid.New(), n,
			time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, int(n)/10).Format(time.RFC3339)))
	}
}

func (a *audit) log(leaf []byte) {
	a.t.Helper()
	n := int64(len(a.leaves))
	hashes, err := tlog.StoredHashes(n, leaf, a)
	require.NoError(a.t, err)
	a.StoredHashes = append(a.StoredHashes, hashes...)
	a.leaves = append(a.leaves, auditlog.HashLeaf(leaf))
	a.rows = append(a.rows, row{n, leaf})
}

func (a *audit) size() int64 { return int64(len(a.leaves)) }

func (a *audit) checkpoint() auditlog.Checkpoint {
	a.t.Helper()
	root, err := tlog.TreeHash(a.size(), a)
	require.NoError(a.t, err)
	return auditlog.Checkpoint{Origin: a.signer.Name(), Size: a.size(), Root: root}
}

func (a *audit) signed() []byte {
	a.t.Helper()
	note, err := auditlog.Sign(a.checkpoint(), append([]note.Signer{a.signer}, a.sign...)...)
	require.NoError(a.t, err)
	return note
}

func (a *audit) eventID(index int64) uuid.UUID {
	a.t.Helper()
	var e struct{ EventID uuid.UUID }
	for _, r := range a.rows {
		if r.index == index && r.event != nil {
			require.NoError(a.t, json.Unmarshal(r.event, &e))
			return e.EventID
		}
	}
	require.FailNow(a.t, "no such event")
	return uuid.Nil
}

// export is what GET /audit/export answers from a leaf on.
func (a *audit) export(first int64) []byte {
	a.t.Helper()
	var out bytes.Buffer
	before, err := auditlog.ReadFrontier(first, a)
	require.NoError(a.t, err)
	encoder := json.NewEncoder(&out)
	require.NoError(a.t, encoder.Encode(auditlog.ExportHeader{
		Checkpoint: string(a.signed()), TreeSize: a.size(), First: first, Before: before.Hashes(),
	}))
	for index := first; index < a.size()+10; index++ {
		found := false
		hash := tlog.Hash{}
		if index < a.size() {
			hash = a.leaves[index]
		}
		for _, r := range a.rows {
			if r.index == index {
				out.Write(auditlog.AppendExportLine(nil, index, hash, r.event, nil))
				found = true
			}
		}
		if !found && index < a.size() {
			out.Write(auditlog.AppendExportLine(nil, index, hash, nil, nil))
		}
	}
	dropped := append([]auditlog.DroppedDay{}, a.dropped...)
	require.NoError(a.t, encoder.Encode(auditlog.ExportTrailer{Cursor: strconv.FormatInt(a.size(), 10), Complete: true, Dropped: dropped}))
	return out.Bytes()
}

// picked is a filtered export of some leaves, with proofs or without.
func (a *audit) picked(proofs bool, leaves ...int64) []byte {
	a.t.Helper()
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	require.NoError(a.t, encoder.Encode(auditlog.ExportHeader{
		Checkpoint: string(a.signed()), TreeSize: a.size(), Before: []tlog.Hash{}, Filtered: true,
	}))
	for _, index := range leaves {
		var proof []tlog.Hash
		if proofs {
			var err error
			proof, err = tlog.ProveRecord(a.size(), index, a)
			require.NoError(a.t, err)
		}
		out.Write(auditlog.AppendExportLine(nil, index, a.leaves[index], a.rows[index].event, proof))
	}
	require.NoError(a.t, encoder.Encode(auditlog.ExportTrailer{Cursor: "x", Complete: true, Dropped: []auditlog.DroppedDay{}}))
	return out.Bytes()
}

func (a *audit) proof(index int64) auditlog.Proof {
	a.t.Helper()
	hashes, err := tlog.ProveRecord(a.size(), index, a)
	require.NoError(a.t, err)
	return auditlog.Proof{
		LeafIndex: index, TreeSize: a.size(), Hashes: hashes, Checkpoint: string(a.signed()),
		Leaf: string(a.rows[index].event), LeafHash: a.leaves[index],
	}
}

// serve answers the public routes.
func (a *audit) serve() *auditor.Client {
	a.t.Helper()
	number := func(query url.Values, key string) int64 {
		n, err := strconv.ParseInt(query.Get(key), 10, 64)
		require.NoError(a.t, err)
		return n
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/audit/checkpoint", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(a.signed()) })
	mux.HandleFunc("GET /api/v1/audit/consistency", func(w http.ResponseWriter, r *http.Request) {
		from, to := number(r.URL.Query(), "from"), number(r.URL.Query(), "to")
		hashes, err := tlog.ProveTree(to, from, a)
		require.NoError(a.t, err)
		_ = json.NewEncoder(w).Encode(auditlog.Consistency{From: from, To: to, Hashes: hashes})
	})
	mux.HandleFunc("GET /api/v1/audit/{eventId}/proof", func(w http.ResponseWriter, r *http.Request) {
		for _, row := range a.rows {
			if bytes.Contains(row.event, []byte(r.PathValue("eventId"))) {
				_ = json.NewEncoder(w).Encode(a.proof(row.index))
				return
			}
		}
		http.Error(w, `{"code":"AUDIT_EVENT_NOT_FOUND"}`, http.StatusNotFound)
	})
	mux.HandleFunc("GET /api/v1/audit/export", func(w http.ResponseWriter, r *http.Request) {
		lines := strings.SplitAfter(string(a.export(number(r.URL.Query(), "cursor"))), "\n")
		if a.cutAfter > 0 && len(lines) > a.cutAfter {
			_, _ = w.Write([]byte(strings.Join(lines[:a.cutAfter], "") + lines[a.cutAfter][:10]))
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write([]byte(strings.Join(lines, "")))
	})
	server := httptest.NewServer(mux)
	a.t.Cleanup(server.Close)
	client, err := auditor.NewClient(server.URL+"/", server.Client())
	require.NoError(a.t, err)
	return client
}
