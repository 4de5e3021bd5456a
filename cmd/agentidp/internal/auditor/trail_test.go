package auditor_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"

	"github.com/sentryagent/agentidp/cmd/agentidp/internal/auditor"
	"github.com/sentryagent/agentidp/pkg/auditlog"
)

func check(t *testing.T, a *audit, exports ...[]byte) *auditor.Report {
	t.Helper()
	trail := auditor.NewTrail(a.verifier)
	for _, export := range exports {
		require.NoError(t, trail.Read(bytes.NewReader(export)))
	}
	return trail.Report()
}

func TestAnUntouchedTrailIsProven(t *testing.T) {
	t.Parallel()
	for _, events := range []int{0, 1, 2, 3, 255, 256, 257, 1000} {
		a := newAudit(t, events)
		report := check(t, a, a.export(0))
		require.True(t, report.Proven(), "%d: %v", events, report.Findings)
		require.EqualValues(t, events, report.Events)
		require.EqualValues(t, events, report.TreeSize)
	}
}

// kinds is what a report says is wrong, and where.
func kinds(r *auditor.Report) map[auditor.Kind][]int64 {
	found := map[auditor.Kind][]int64{}
	for _, f := range r.Findings {
		found[f.Kind] = append(found[f.Kind], f.LeafIndex)
	}
	return found
}

func TestTamperingIsFoundAndNamed(t *testing.T) {
	t.Parallel()
	type found = map[auditor.Kind][]int64
	for name, test := range map[string]struct {
		tamper func(a *audit)
		want   found
	}{
		"a field is changed": {func(a *audit) {
			a.rows[7].event = bytes.Replace(a.rows[7].event, []byte("issued"), []byte("denied"), 1)
		}, found{auditor.Changed: {7}}},
		"a field is changed, and its hash with it": {func(a *audit) {
			a.rows[7].event = bytes.Replace(a.rows[7].event, []byte("issued"), []byte("denied"), 1)
			a.leaves[7] = auditlog.HashLeaf(a.rows[7].event)
		}, found{auditor.Broken: {-1}}},
		"a row is deleted": {func(a *audit) {
			a.rows = append(a.rows[:7:7], a.rows[8:]...)
		}, found{auditor.Missing: {7}}},
		"the last rows are deleted": {func(a *audit) {
			a.rows = a.rows[:97]
		}, found{auditor.Missing: {97}}},
		"two rows change places": {func(a *audit) {
			a.rows[7].event, a.rows[40].event = a.rows[40].event, a.rows[7].event
		}, found{auditor.Moved: {7, 40}}},
		"two rows change places, hashes and all": {func(a *audit) {
			a.rows[7].event, a.rows[40].event = a.rows[40].event, a.rows[7].event
			a.leaves[7], a.leaves[40] = a.leaves[40], a.leaves[7]
		}, found{auditor.Broken: {-1}}},
		"a row is added under an index in use": {func(a *audit) {
			a.rows = append(a.rows, row{7, []byte(`{"eventId":"forged"}`)})
		}, found{auditor.Added: {7}}},
		"a row is put before the one whose index it takes": {func(a *audit) {
			a.rows = append([]row{{7, []byte(`{"eventId":"forged"}`)}}, a.rows...)
		}, found{auditor.Added: {7}}},
		"a row is added at the end": {func(a *audit) {
			a.rows = append(a.rows, row{100, []byte(`{"eventId":"forged"}`)})
		}, found{auditor.Added: {100}}},
		"a row is copied": {func(a *audit) {
			a.rows = append(a.rows, row{7, a.rows[7].event})
		}, found{auditor.Added: {7}}},
		"an event is logged twice": {func(a *audit) {
			a.log(a.rows[7].event)
		}, found{auditor.Added: {100}}},
		"a row is deleted, and retention blamed for another day": {func(a *audit) {
			a.rows = a.rows[10:]
			a.dropped = []auditlog.DroppedDay{{Day: "2026-01-01", Events: 10, FirstLeaf: 0, LastLeaf: 9}}
			a.rows = append(a.rows[:35:35], a.rows[36:]...)
		}, found{auditor.Missing: {45}, auditor.Unproven: {-1}}},
		"a row is deleted, and its day said to be removed": {func(a *audit) {
			a.rows[15].event = nil
			a.dropped = []auditlog.DroppedDay{{Day: "2026-01-02", Events: 1, FirstLeaf: 15, LastLeaf: 15}}
			a.rows = a.rows[10:]
			a.dropped = append(a.dropped, auditlog.DroppedDay{Day: "2026-01-01", Events: 10, FirstLeaf: 0, LastLeaf: 9})
		}, found{auditor.Missing: {15}, auditor.Unproven: {-1}}},
		"a row is deleted, and a day that is none said to be removed": {func(a *audit) {
			a.rows = a.rows[1:]
			a.dropped = []auditlog.DroppedDay{{Day: "2025-12-1", Events: 1, FirstLeaf: 0, LastLeaf: 0}}
		}, found{auditor.Missing: {0}}},
		"a row is deleted, and more said to be removed": {func(a *audit) {
			a.rows = a.rows[1:]
			a.dropped = []auditlog.DroppedDay{{Day: "2025-12-01", Events: 2, FirstLeaf: 0, LastLeaf: 1}}
		}, found{auditor.Missing: {-1}}},
		"a row is deleted, and two things said of a day": {func(a *audit) {
			a.rows = a.rows[2:]
			a.dropped = []auditlog.DroppedDay{
				{Day: "2025-12-01", Events: 1, FirstLeaf: 0, LastLeaf: 0}, {Day: "2025-12-01", Events: 1, FirstLeaf: 1, LastLeaf: 1},
			}
		}, found{auditor.Missing: {1}, auditor.Unproven: {-1}}},
		"rows are deleted, and retention blamed for fewer": {func(a *audit) {
			a.rows = a.rows[10:]
			a.dropped = []auditlog.DroppedDay{{Day: "2026-01-01", Events: 9, FirstLeaf: 0, LastLeaf: 9}}
		}, found{auditor.Missing: {-1}}},
		"a day is deleted, and retention blamed, but for a day in the middle": {func(a *audit) {
			a.rows = append(a.rows[:30:30], a.rows[40:]...)
			a.dropped = []auditlog.DroppedDay{{Day: "2026-01-04", Events: 10, FirstLeaf: 30, LastLeaf: 39}}
		}, found{auditor.Missing: {30}}},
		"another key signs": {func(a *audit) {
			a.signer = newAudit(a.t, 0).signer
		}, found{auditor.Unsigned: {-1}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAudit(t, 100)
			test.tamper(a)
			report := check(t, a, a.export(0))
			require.Equal(t, test.want, kinds(report), "%v", report.Findings)
			require.True(t, report.Tampered())
			var text bytes.Buffer
			require.NoError(t, report.WriteText(&text))
			require.Contains(t, text.String(), "NOT OK")
		})
	}
}

func TestTheEventIsNamedByItsID(t *testing.T) {
	t.Parallel()
	a := newAudit(t, 20)
	id := a.eventID(7).String()
	a.rows[7].event = bytes.Replace(a.rows[7].event, []byte("issued"), []byte("denied"), 1)
	a.rows = append(a.rows, row{12, []byte(`{"eventId":"forged"}`)})
	report := check(t, a, a.export(0))
	require.Len(t, report.Findings, 2)
	require.Equal(t, id, report.Findings[0].EventID)
	require.Equal(t, "forged", report.Findings[1].EventID)
	require.Contains(t, report.Findings[0].String(), "CHANGED")
}

func TestWhatRetentionRemovedIsNotMissing(t *testing.T) {
	t.Parallel()
	a := newAudit(t, 100)
	a.rows = a.rows[20:]
	a.dropped = []auditlog.DroppedDay{
		{Day: "2026-01-01", Events: 10, FirstLeaf: 0, LastLeaf: 9},
		{Day: "2026-01-02", Events: 10, FirstLeaf: 10, LastLeaf: 19},
	}
	agreed := func(days int, now string) *auditor.Report {
		at, err := time.Parse(time.DateOnly, now)
		require.NoError(t, err)
		trail := auditor.NewTrail(a.verifier)
		trail.Retention(days, at)
		require.NoError(t, trail.Read(bytes.NewReader(a.export(0))))
		return trail.Report()
	}
	report := agreed(7, "2026-01-10")
	require.True(t, report.Proven(), "%v", report.Findings)
	require.Equal(t, map[auditor.Kind][]int64{auditor.Unproven: {-1}}, kinds(check(t, a, a.export(0))), "only the service says so")
	require.Equal(t, map[auditor.Kind][]int64{auditor.Missing: {10}}, kinds(agreed(8, "2026-01-10")), "too early for one day")
	require.Equal(t, map[auditor.Kind][]int64{auditor.Unproven: {10}}, kinds(agreed(8, "2026-03-01")), "at the time of the last event")
	require.EqualValues(t, 80, report.Events)
	require.EqualValues(t, 100, report.Leaves)
	require.Len(t, report.Dropped, 2)
}

func TestAnExportMayComeInParts(t *testing.T) {
	t.Parallel()
	a := newAudit(t, 300)
	first := a.export(0)
	a.add(50)
	second := a.export(300)
	require.True(t, check(t, a, first, second).Proven())
	require.True(t, check(t, a, append(append([]byte{}, first...), second...)).Proven(), "in one file")

	report := check(t, a, second)
	require.Equal(t, map[auditor.Kind][]int64{auditor.Unproven: {0}}, kinds(report), "the tail alone says nothing about the beginning")
	require.EqualValues(t, 299, report.Findings[0].Through)
	require.False(t, report.Whole)
	trail := auditor.NewTrail(a.verifier)
	trail.From(300)
	require.NoError(t, trail.Read(bytes.NewReader(second)))
	require.True(t, trail.Report().Proven(), "unless nobody asked for it")

	lines := bytes.SplitAfter(first, []byte("\n"))
	cut := bytes.Join(lines[:100], nil) // the head and 99 leaves
	report = check(t, a, cut)
	require.Equal(t, map[auditor.Kind][]int64{auditor.Unproven: {-1}}, kinds(report))
	require.Contains(t, report.Findings[0].Detail, "cursor=99")
	require.True(t, check(t, a, cut, a.export(99)).Proven())
	require.Equal(t, map[auditor.Kind][]int64{auditor.Unproven: {99}}, kinds(check(t, a, cut, a.export(120))), "a gap between the parts")

	trail = auditor.NewTrail(a.verifier)
	require.NoError(t, trail.Read(bytes.NewReader(first)))
	require.ErrorContains(t, trail.Read(bytes.NewReader(first)), "in order")

	other := newAudit(t, 300)
	other.signer, other.verifier = a.signer, a.verifier
	other.add(50)
	require.Contains(t, kinds(check(t, a, first, other.export(300))), auditor.Broken, "the second part is of another past")
}

func TestALineThatIsLeftOutIsMissing(t *testing.T) {
	t.Parallel()
	a := newAudit(t, 50)
	lines := bytes.SplitAfter(a.export(0), []byte("\n"))
	report := check(t, a, bytes.Join(append(lines[:20:20], lines[22:]...), nil))
	require.Equal(t, map[auditor.Kind][]int64{auditor.Missing: {19}}, kinds(report))
	require.EqualValues(t, 20, report.Findings[0].Through)
}

func TestAPastThatIsRewrittenIsAFork(t *testing.T) {
	t.Parallel()
	old := newAudit(t, 60)
	kept := old.checkpoint()
	for name, test := range map[string]struct {
		now  func() *audit
		want auditor.Kind
	}{
		"it goes on":            {func() *audit { old.add(40); return old }, ""},
		"another past, longer":  {func() *audit { return newAudit(t, 100) }, auditor.Forked},
		"another past, as long": {func() *audit { return newAudit(t, 60) }, auditor.Forked},
		"shorter":               {func() *audit { return newAudit(t, 40) }, auditor.Unproven}, // a file may be an old one
	} {
		now := test.now()
		now.signer, now.verifier = old.signer, old.verifier
		trail := auditor.NewTrail(old.verifier)
		trail.Keep(kept)
		require.NoError(t, trail.Read(bytes.NewReader(now.export(0))))
		report := trail.Report()
		if test.want == "" {
			require.True(t, report.Proven(), "%s: %v", name, report.Findings)
			require.Equal(t, now.signed(), trail.Believed())
			continue
		}
		require.Equal(t, map[auditor.Kind][]int64{test.want: {-1}}, kinds(report), name)
		require.Nil(t, trail.Believed(), "what is not believed is not kept")
	}
}

func TestAnOldExportIsConnectedByThePartsThatFollowIt(t *testing.T) {
	t.Parallel()
	a := newAudit(t, 40)
	old := a.export(0)
	a.add(20)
	kept := a.checkpoint()
	a.add(40)
	for name, parts := range map[string][][]byte{"alone": {old}, "with the next": {old, a.export(40)}} {
		trail := auditor.NewTrail(a.verifier)
		trail.Keep(kept)
		for _, part := range parts {
			require.NoError(t, trail.Read(bytes.NewReader(part)))
		}
		report := trail.Report()
		require.False(t, report.Tampered(), "%s: %v", name, report.Findings)
		require.Equal(t, len(parts) == 2, report.Proven(), "%s: %v", name, report.Findings)
		require.Equal(t, len(parts) == 2, trail.Believed() != nil, name)
	}
}

func TestAnExportThatBeginsAfterTheKeptCheckpointSaysNothingAboutIt(t *testing.T) {
	t.Parallel()
	a := newAudit(t, 60)
	kept := a.checkpoint()
	a.add(40)
	for first, want := range map[int64]bool{0: true, 59: true, 60: true, 61: false} {
		trail := auditor.NewTrail(a.verifier)
		trail.Keep(kept)
		trail.From(61)
		require.NoError(t, trail.Read(bytes.NewReader(a.export(first))))
		report := trail.Report()
		require.Equal(t, want, report.Proven(), "%d: %v", first, report.Findings)
		require.False(t, report.Tampered())
		require.Equal(t, want, trail.Believed() != nil)
	}
}

func TestAFilteredExportProvesEachLine(t *testing.T) {
	t.Parallel()
	a := newAudit(t, 100)
	require.True(t, check(t, a, a.picked(true, 3, 50, 99)).Proven())

	report := check(t, a, a.picked(false, 3, 50))
	require.Equal(t, map[auditor.Kind][]int64{auditor.Unproven: {-1}}, kinds(report))

	good := a.picked(true, 3, 50, 99)
	a.rows[50].event = []byte(`{"eventId":"forged"}`)
	require.Equal(t, map[auditor.Kind][]int64{auditor.Changed: {50}}, kinds(check(t, a, a.picked(true, 3, 50, 99))))
	a.leaves[50] = auditlog.HashLeaf(a.rows[50].event)
	require.Equal(t, map[auditor.Kind][]int64{auditor.Added: {50}}, kinds(check(t, a, a.picked(true, 3, 50, 99))))

	lines := bytes.SplitAfter(good, []byte("\n"))
	cut := bytes.Join(lines[:3], nil)
	require.Equal(t, map[auditor.Kind][]int64{auditor.Unproven: {-1}}, kinds(check(t, a, cut)))
}

func TestAFilteredExportMayComeInParts(t *testing.T) {
	t.Parallel()
	a := newAudit(t, 100)
	begins := func(export []byte, first string) []byte {
		return bytes.Replace(export, []byte(`"first":0`), []byte(`"first":`+first), 1)
	}
	early := bytes.Replace(a.picked(true, 3), []byte(`"x","complete":true`), []byte(`"40","complete":false`), 1)
	for name, test := range map[string]struct {
		parts  [][]byte
		proven bool
	}{
		"all of them":        {[][]byte{early, begins(a.picked(true, 50, 99), "40")}, true},
		"without the last":   {[][]byte{early}, false},
		"with a gap":         {[][]byte{early, begins(a.picked(true, 99), "41")}, false},
		"two that end early": {[][]byte{early, bytes.Replace(begins(early, "40"), []byte(`"cursor":"40"`), []byte(`"cursor":"60"`), 1)}, false},
	} {
		report := check(t, a, test.parts...)
		require.Equal(t, test.proven, report.Proven(), "%s: %v", name, report.Findings)
	}
}

func TestHashesThatWereSeenNameTheLeaf(t *testing.T) {
	t.Parallel()
	a := newAudit(t, 50)
	path := filepath.Join(t.TempDir(), "hashes")
	read := func() *auditor.Report {
		known, err := auditor.OpenHashes(path)
		require.NoError(t, err)
		defer func() { require.NoError(t, known.Close()) }()
		trail := auditor.NewTrail(a.verifier)
		trail.Compare(known)
		require.NoError(t, trail.Read(bytes.NewReader(a.export(0))))
		report := trail.Report()
		if trail.Believed() != nil {
			require.NoError(t, known.Save(trail.Solid()))
		}
		return report
	}
	require.True(t, read().Proven())
	a.add(20)
	require.True(t, read().Proven())
	id := a.eventID(33).String()

	a.leaves[33][0] ^= 1
	report := read()
	require.Equal(t, map[auditor.Kind][]int64{auditor.Broken: {-1}, auditor.Changed: {33, 33}}, kinds(report))
	require.Equal(t, id, report.Findings[1].EventID)

	a.leaves[33][0] ^= 1
	require.True(t, read().Proven(), "what was wrong was not kept")
}

func TestAProgramThatPrintsAnExportAnewDoesNoHarm(t *testing.T) {
	t.Parallel()
	a := newAudit(t, 20)
	a.log([]byte("{\"a\":\"<\u2028>\",\"b\":1}"))
	var anew bytes.Buffer
	for raw := range bytes.Lines(a.export(0)) {
		var value any
		require.NoError(t, json.Unmarshal(raw, &value))
		text, err := json.Marshal(value) // escapes, and the order of a map
		require.NoError(t, err)
		anew.Write(append(text, '\n', '\n'))
	}
	require.True(t, check(t, a, anew.Bytes()).Proven())
}

func TestWhatIsNoExportIsAnError(t *testing.T) {
	t.Parallel()
	a := newAudit(t, 3)
	whole := string(a.export(0))
	report := check(t, a, []byte(`{"checkpoint":"","treeSize":0,"first":0,"before":[],"filtered":false}`+"\n"+`{"cursor":"0","complete":true,"dropped":[]}`+"\n"))
	require.Equal(t, map[auditor.Kind][]int64{auditor.Unproven: {-1}}, kinds(report), "an empty log that signed nothing")
	for name, text := range map[string]string{
		"no JSON":                   "nonsense\n",
		"a leaf without a head":     whole[strings.Index(whole, "\n")+1:],
		"an object of another kind": whole[:strings.Index(whole, "\n")+1] + "{}\n",
		"a frontier that is none":   strings.Replace(whole, `"first":0`, `"first":2`, 1),
	} {
		require.Error(t, auditor.NewTrail(a.verifier).Read(strings.NewReader(text)), name)
	}
}

func TestWitnessesAreTold(t *testing.T) {
	t.Parallel()
	a := newAudit(t, 3)
	secret, public, err := auditlog.GenerateWitnessKey(rand.Reader, "witness.example")
	require.NoError(t, err)
	cosigner, err := auditlog.NewCosigner(secret, func() time.Time { return time.Unix(1_800_000_000, 0) })
	require.NoError(t, err)
	witness, err := auditlog.NewCosignatureVerifier(public)
	require.NoError(t, err)

	trail := auditor.NewTrail(a.verifier, witness)
	require.NoError(t, trail.Read(bytes.NewReader(a.export(0))))
	report := trail.Report()
	require.Equal(t, map[auditor.Kind][]int64{auditor.Unproven: {-1}}, kinds(report))

	a.sign = []note.Signer{cosigner}
	trail = auditor.NewTrail(a.verifier, witness)
	require.NoError(t, trail.Read(bytes.NewReader(a.export(0))))
	report = trail.Report()
	require.True(t, report.Proven(), "%v", report.Findings)
	require.Equal(t, []auditor.Witnessed{{Name: "witness.example", At: "2027-01-15T08:00:00Z", TreeSize: 3}}, report.Witnesses)

	old := a.export(0)
	a.sign = nil
	a.add(4)
	trail = auditor.NewTrail(a.verifier, witness)
	require.NoError(t, trail.Read(bytes.NewReader(old)))
	require.NoError(t, trail.Read(bytes.NewReader(a.export(3))))
	report = trail.Report()
	require.Equal(t, map[auditor.Kind][]int64{auditor.Unproven: {3}}, kinds(report), "the witness has not seen the new ones")
	require.EqualValues(t, 6, report.Findings[0].Through)
}
