package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/idle"
)

const (
	// lookEvery is how often a checkpoint is read while everything is struck.
	lookEvery = 500 * time.Millisecond
	provers   = 4
)

// observer reads the checkpoints of the log while everything is struck: in the end each of them must be the head of a
// beginning of the one log there is.
type observer struct {
	seen []observed
}

type observed struct {
	replica string
	at      time.Time
	signed  []byte
}

// observe until ctx ends. What is not answered is not observed.
func (r *run) observe(ctx context.Context) {
	replicas := r.replicas("audit")["audit"]
	for i := 0; idle.For(ctx, lookEvery) == nil; i++ {
		from := replicas[i%len(replicas)]
		ask, cancel := context.WithTimeout(ctx, patience)
		signed, err := r.rig.Get(ask, "http://"+from.address+"/api/v1/audit/checkpoint", "")
		cancel()
		if err == nil {
			r.observer.seen = append(r.observer.seen, observed{replica: from.name, at: time.Now(), signed: signed})
		}
	}
}

// leaves are the hashes of the log's leaves by their index, as the proofs of all events give them.
type leaves struct {
	mu      sync.Mutex
	hashes  map[int64]tlog.Hash
	holders map[int64]event
	found   []finding
}

// proven asks for the proof of every event, verifies it, and holds all that was observed, and all that went onward,
// against the log that results.
func (r *run) proven(ctx context.Context, stored []event, bearer string) ([]finding, error) {
	verifier, err := note.NewVerifier(r.rig.LogPublicKey)
	if err != nil {
		return nil, fmt.Errorf("key of the log: %w", err)
	}
	log := &leaves{hashes: map[int64]tlog.Hash{}, holders: map[int64]event{}}
	replicas := r.rig.Instances("audit")
	var group errgroup.Group
	group.SetLimit(provers)
	for i, e := range stored {
		address := r.rig.Public(replicas[i%len(replicas)])
		group.Go(func() error {
			if proof, err := r.proofOf(ctx, address, e, bearer); err != nil {
				log.miss(e, "it has no proof: "+err.Error())
			} else {
				log.take(e, proof, checkProof(e, proof, verifier))
			}
			return nil
		})
		if ctx.Err() != nil {
			break
		}
	}
	_ = group.Wait() // what is found is in the log
	forwarded, err := r.onward(ctx, log)
	return slices.Concat(log.found, log.heads(r.observer.seen, verifier), forwarded), err
}

func (r *run) proofOf(ctx context.Context, address string, e event, bearer string) (proof auditlog.Proof, err error) {
	answer, err := r.rig.Get(ctx, "http://"+address+"/api/v1/audit/"+e.id+"/proof", bearer)
	if err == nil {
		err = json.Unmarshal(answer, &proof)
	}
	return proof, err
}

// checkProof says what is wrong with the proof of an event, "" if nothing is.
func checkProof(e event, proof auditlog.Proof, verifier note.Verifier) string {
	leaf, err := auditlog.Leaf(e.payload)
	if err != nil {
		return "no leaf can be made of it: " + err.Error()
	}
	if string(leaf) != proof.Leaf || auditlog.HashLeaf(leaf) != proof.LeafHash {
		return "its proof is about another leaf: " + proof.Leaf
	}
	head, _, err := auditlog.Open([]byte(proof.Checkpoint), verifier)
	if err != nil {
		return "its proof has no checkpoint of this log: " + err.Error()
	}
	if head.Size != proof.TreeSize {
		return fmt.Sprintf("its proof is for %d leaves and the checkpoint for %d", proof.TreeSize, head.Size)
	}
	if err := tlog.CheckRecord(proof.Hashes, head.Size, head.Root, proof.LeafIndex, proof.LeafHash); err != nil {
		return "its proof does not verify: " + err.Error()
	}
	return ""
}

func (l *leaves) take(e event, proof auditlog.Proof, wrong string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if other, taken := l.holders[proof.LeafIndex]; taken {
		wrong = fmt.Sprintf("its leaf index %d is also that of %s", proof.LeafIndex, other)
	}
	l.hashes[proof.LeafIndex], l.holders[proof.LeafIndex] = proof.LeafHash, e
	if wrong != "" {
		l.found = append(l.found, wrongEvent(e, wrong))
	}
}

func (l *leaves) miss(e event, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.found = append(l.found, wrongEvent(e, why))
}

func wrongEvent(e event, wrong string) finding {
	return finding{what: wrong + ": " + e.String(), requests: []string{e.request}, from: e.at, to: e.at}
}

// heads holds every checkpoint that was observed against the leaves there are.
func (l *leaves) heads(seen []observed, verifier note.Verifier) []finding {
	var tree []tlog.Hash
	read := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			hashes[i] = tree[index]
		}
		return hashes, nil
	})
	size := int64(len(l.hashes))
	for index := range size {
		hash, there := l.hashes[index]
		if !there {
			return []finding{{what: fmt.Sprintf("no event has leaf index %d, of %d events", index, size)}}
		}
		more, err := tlog.StoredHashesForRecordHash(index, hash, read)
		if err != nil {
			return []finding{{what: fmt.Sprintf("leaf %d cannot be hashed: %v", index, err)}}
		}
		tree = append(tree, more...)
	}
	var found []finding
	last := int64(0)
	for _, o := range seen {
		head, _, err := auditlog.Open(o.signed, verifier)
		var root tlog.Hash
		if err == nil && head.Size <= size {
			root, err = tlog.TreeHash(head.Size, read)
		}
		wrong := ""
		switch {
		case err != nil:
			wrong = err.Error()
		case head.Size > size:
			wrong = fmt.Sprintf("it has %d leaves, and there are %d events", head.Size, size)
		case head.Root != root:
			wrong = "its root is not that of the log's beginning: the log forked"
		case head.Size < last:
			wrong = fmt.Sprintf("it has %d leaves, and one before had %d", head.Size, last)
		}
		if wrong != "" {
			found = append(found, finding{
				what: fmt.Sprintf("checkpoint of %s at %s: %s", o.replica, o.at.UTC().Format(clock), wrong), from: o.at, to: o.at,
			})
		}
		last = max(last, head.Size)
	}
	return found
}
