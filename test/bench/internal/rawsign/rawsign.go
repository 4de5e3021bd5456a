// Package rawsign measures how fast this machine makes signatures, with the same library that the token service signs
// with and nothing around it: the yardstick that every other figure of the benchmark is held against.
package rawsign

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sentryagent/agentidp/test/internal/proc"
)

// messageBytes is about what is signed of an access token: header and claims in base64.
const messageBytes = 700

// Rate is how fast signatures were made.
type Rate struct {
	PerSecond float64 `json:"perSecond"` // all workers together
	// CPUms is the processor time of one signature in milliseconds. Unlike PerSecond it hardly changes when other
	// programs want the same cores.
	CPUms float64 `json:"cpuMs"`
}

// Signer holds one key per algorithm.
type Signer struct {
	sign    map[string]func(message []byte) error
	workers int
}

// New makes the keys; workers sign side by side, one per core.
func New(workers int) (*Signer, error) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("make an RSA key: %w", err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a P-256 key: %w", err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make an Ed25519 key: %w", err)
	}
	return &Signer{workers: workers, sign: map[string]func([]byte) error{
		"RS256": func(message []byte) error {
			digest := sha256.Sum256(message)
			_, err := rsa.SignPKCS1v15(rand.Reader, rsaKey, crypto.SHA256, digest[:])
			return err
		},
		"ES256": func(message []byte) error {
			digest := sha256.Sum256(message)
			_, err := ecdsa.SignASN1(rand.Reader, ecKey, digest[:])
			return err
		},
		"EdDSA": func(message []byte) error {
			ed25519.Sign(edKey, message)
			return nil
		},
	}}, nil
}

// Measure signs for the given time on all cores. The algorithm is one of RS256, ES256, EdDSA.
func (s *Signer) Measure(algorithm string, duration time.Duration) (Rate, error) {
	sign, known := s.sign[algorithm]
	if !known {
		return Rate{}, fmt.Errorf("no signatures are made by %q", algorithm)
	}
	cpuBefore, err := proc.CPU(proc.Root, os.Getpid())
	if err != nil {
		return Rate{}, err
	}
	var (
		stop    atomic.Bool
		made    atomic.Int64
		failed  atomic.Pointer[error]
		working sync.WaitGroup
	)
	begin := time.Now()
	timer := time.AfterFunc(duration, func() { stop.Store(true) })
	defer timer.Stop()
	for range s.workers {
		working.Go(func() {
			message := make([]byte, messageBytes)
			own := int64(0)
			for !stop.Load() {
				if err := sign(message); err != nil {
					failed.Store(&err)
					return
				}
				own++
			}
			made.Add(own)
		})
	}
	working.Wait()
	elapsed := time.Since(begin)
	if err := failed.Load(); err != nil {
		return Rate{}, fmt.Errorf("sign by %s: %w", algorithm, *err)
	}
	cpuAfter, err := proc.CPU(proc.Root, os.Getpid())
	if err != nil {
		return Rate{}, err
	}
	count := float64(made.Load())
	return Rate{
		PerSecond: count / elapsed.Seconds(),
		CPUms:     (cpuAfter - cpuBefore).Seconds() * 1000 / count,
	}, nil
}
