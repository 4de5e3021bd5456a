package auditor_test

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/cmd/agentidp/internal/auditor"
	"github.com/sentryagent/agentidp/pkg/auditlog"
)

func TestARunningLogIsCheckedFromWhereItWasLeft(t *testing.T) {
	t.Parallel()
	a := newAudit(t, 40)
	client := a.serve()
	state := filepath.Join(t.TempDir(), "checkpoint")
	run := func(headOnly, newOnly bool) *auditor.Report {
		trail := auditor.NewTrail(a.verifier)
		cursor := int64(0)
		kept, ok, err := auditor.LoadCheckpoint(state, a.verifier)
		require.NoError(t, err)
		if ok {
			trail.Keep(kept)
			if newOnly {
				cursor = kept.Size
			}
		}
		require.NoError(t, auditor.Online(t.Context(), client, trail, cursor, headOnly))
		report := trail.Report()
		if note := trail.Believed(); note != nil {
			require.NoError(t, auditor.SaveCheckpoint(state, note))
		}
		return report
	}
	require.True(t, run(false, false).Proven())
	a.add(30)
	report := run(true, false)
	require.True(t, report.Proven(), "%v", report.Findings)
	require.Zero(t, report.Leaves)
	require.EqualValues(t, 40, report.Kept)
	a.add(30)
	report = run(false, true)
	require.True(t, report.Proven(), "%v", report.Findings)
	require.EqualValues(t, 30, report.Events, "only the new ones")

	before := *a
	a.StoredHashes, a.leaves, a.rows = nil, nil, nil
	a.add(90)
	require.Contains(t, kinds(run(true, false)), auditor.Rollback)
	one := auditor.NewTrail(a.verifier)
	one.Keep(before.checkpoint())
	require.NoError(t, auditor.OnlineProof(t.Context(), client, one, a.eventID(17)))
	require.Contains(t, kinds(one.Report()), auditor.Rollback)
	a.add(20)
	require.Contains(t, kinds(run(true, false)), auditor.Forked)
	a.StoredHashes, a.leaves, a.rows = before.StoredHashes, before.leaves, before.rows
	require.True(t, run(false, false).Proven(), "what was refused was not kept")

	require.NoError(t, os.WriteFile(state, newAudit(t, 5).signed(), 0o600))
	_, _, err := auditor.LoadCheckpoint(state, a.verifier)
	require.Error(t, err, "a state of another log is not taken for none")
}

func TestABrokenConnectionIsGoneOnWith(t *testing.T) {
	t.Parallel()
	a := newAudit(t, 50)
	a.cutAfter = 13
	client := a.serve()
	trail := auditor.NewTrail(a.verifier)
	require.NoError(t, auditor.Online(t.Context(), client, trail, 0, false))
	report := trail.Report()
	require.True(t, report.Proven(), "%v", report.Findings)
	require.EqualValues(t, 50, report.Events)

	var file bytes.Buffer
	require.NoError(t, client.Export(t.Context(), nil, 0, func(raw []byte) error {
		_, err := file.Write(append(raw, '\n'))
		return err
	}))
	report = check(t, a, file.Bytes())
	require.True(t, report.Proven(), "the parts in one file: %v", report.Findings)
}

func TestAnExportThatNeverGetsFurtherEnds(t *testing.T) {
	t.Parallel()
	a := newAudit(t, 50)
	a.cutAfter = 1 // the head and nothing else
	client := a.serve()
	client.Impatient()
	err := client.Export(t.Context(), nil, 0, func([]byte) error { return nil })
	require.ErrorContains(t, err, "no further than cursor=0")

	require.ErrorIs(t, newAudit(t, 50).serve().Export(t.Context(), nil, 0, func([]byte) error { return os.ErrClosed }), os.ErrClosed)
}

func TestOneEventIsProven(t *testing.T) {
	t.Parallel()
	a := newAudit(t, 50)
	client := a.serve()
	id := a.eventID(17)
	proof, err := client.Proof(t.Context(), id)
	require.NoError(t, err)
	judge := func(p auditlog.Proof, id uuid.UUID) *auditor.Report {
		trail := auditor.NewTrail(a.verifier)
		trail.Proof(p, id)
		return trail.Report()
	}
	require.True(t, judge(proof, id).Proven(), "%v", judge(proof, id).Findings)
	require.True(t, judge(proof, uuid.Nil).Proven())
	require.Contains(t, kinds(judge(proof, a.eventID(18))), auditor.Changed, "a proof of another event")

	forged := proof
	forged.Leaf = `{"eventId":"` + id.String() + `"}`
	require.Contains(t, kinds(judge(forged, id)), auditor.Changed)
	forged.LeafHash = auditlog.HashLeaf([]byte(forged.Leaf))
	require.Contains(t, kinds(judge(forged, id)), auditor.Added)
	other := proof
	other.Checkpoint = string(newAudit(t, 50).signed())
	require.Contains(t, kinds(judge(other, id)), auditor.Unsigned)

	_, err = client.Proof(t.Context(), uuid.New())
	require.ErrorContains(t, err, "404")
}

func TestAddressesAreChecked(t *testing.T) {
	t.Parallel()
	for _, base := range []string{"", "example.com", "ftp://example.com", "http://", "http://x/?a=b", "http://[::1"} {
		_, err := auditor.NewClient(base, http.DefaultClient)
		require.Error(t, err, base)
	}
	_, err := auditor.LoadKey("nonsense")
	require.Error(t, err)
}
