// Package proc reads from /proc what a process has cost so far: processor time and memory. It knows nothing of what the
// process does, and it works on Linux only.
package proc

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of the times in /proc/<pid>/stat: USER_HZ is 100 on every architecture that Linux runs on today.
const tick = 10 * time.Millisecond

// Root is where the proc filesystem is.
const Root = "/proc"

// stat is what is read of /proc/<pid>/stat, proc_pid_stat(5).
type stat struct {
	parent int
	own    time.Duration // utime + stime
	reaped time.Duration // cutime + cstime: of children that have ended and been waited for
}

// parseStat reads the one line of a stat file. The name of the program, in parentheses, may hold anything.
func parseStat(line []byte) (stat, error) {
	end := bytes.LastIndexByte(line, ')')
	if end < 0 {
		return stat{}, fmt.Errorf("stat line without a program name: %q", line)
	}
	fields := strings.Fields(string(line[end+1:]))
	const state, ppid, utime, stime, cutime, cstime = 3, 4, 14, 15, 16, 17 // numbers of the fields, from 1
	if len(fields) <= cstime-state {
		return stat{}, fmt.Errorf("stat line with %d fields", len(fields))
	}
	var numbers [cstime + 1]int64
	for _, n := range []int{ppid, utime, stime, cutime, cstime} {
		value, err := strconv.ParseInt(fields[n-state], 10, 64)
		if err != nil {
			return stat{}, fmt.Errorf("field %d of the stat line: %w", n, err)
		}
		numbers[n] = value
	}
	return stat{
		parent: int(numbers[ppid]),
		own:    time.Duration(numbers[utime]+numbers[stime]) * tick,
		reaped: time.Duration(numbers[cutime]+numbers[cstime]) * tick,
	}, nil
}

func readStat(root string, pid int) (stat, error) {
	line, err := os.ReadFile(filepath.Join(root, strconv.Itoa(pid), "stat")) // #nosec G304 -- of the proc filesystem
	if err != nil {
		return stat{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return parseStat(line)
}

// CPU is the processor time a process has used so far, all its threads together, to 10 ms.
func CPU(root string, pid int) (time.Duration, error) {
	s, err := readStat(root, pid)
	return s.own, err
}

// Stolen is the processor time of all cores that a hypervisor has given to others while something here wanted to run
// (proc_stat(5), steal).
func Stolen(root string) (time.Duration, error) {
	content, err := os.ReadFile(filepath.Join(root, "stat")) // #nosec G304 -- of the proc filesystem
	if err != nil {
		return 0, fmt.Errorf("the times of all cores: %w", err)
	}
	line, _, _ := strings.Cut(string(content), "\n")
	const steal = 8 // after the name
	fields := strings.Fields(line)
	if len(fields) <= steal || fields[0] != "cpu" {
		return 0, fmt.Errorf("the times of all cores: %q", line)
	}
	ticks, err := strconv.ParseInt(fields[steal], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("the times of all cores: %w", err)
	}
	return time.Duration(ticks) * tick, nil
}

// Children of a process that run now.
func Children(root string, pid int) ([]int, error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var children []int
	for _, entry := range entries {
		child, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if c, err := readStat(root, child); err == nil && c.parent == pid {
			children = append(children, child)
		}
	}
	return children, nil
}

// TreeCPU is CPU of a process and of its children, those that have ended included. It serves programs such as Postgres,
// where every connection is a process.
func TreeCPU(root string, pid int) (time.Duration, error) {
	s, err := readStat(root, pid)
	if err != nil {
		return 0, err
	}
	children, err := Children(root, pid)
	if err != nil {
		return 0, err
	}
	sum := s.own + s.reaped
	for _, child := range children {
		// One that ended meanwhile is counted by its parent.
		if c, err := readStat(root, child); err == nil {
			sum += c.own + c.reaped
		}
	}
	return sum, nil
}

// Memory is what a process has in memory.
type Memory struct {
	RSS  int64 `json:"rssBytes"`  // now
	Peak int64 `json:"peakBytes"` // the most so far
}

// MemoryOf reads the resident set of a process.
func MemoryOf(root string, pid int) (Memory, error) {
	content, err := os.ReadFile(filepath.Join(root, strconv.Itoa(pid), "status")) // #nosec G304 -- of the proc filesystem
	if err != nil {
		return Memory{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return parseStatus(content)
}

func parseStatus(content []byte) (Memory, error) {
	var m Memory
	for _, wanted := range []struct {
		name string
		into *int64
	}{{"VmRSS:", &m.RSS}, {"VmHWM:", &m.Peak}} {
		_, rest, found := strings.Cut(string(content), "\n"+wanted.name)
		line, _, _ := strings.Cut(rest, "\n")
		fields := strings.Fields(line)
		if !found || len(fields) != 2 || fields[1] != "kB" {
			return Memory{}, fmt.Errorf("no %s in the status of the process", wanted.name)
		}
		kib, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil {
			return Memory{}, fmt.Errorf("%s: %w", wanted.name, err)
		}
		*wanted.into = kib << 10
	}
	return m, nil
}

// TotalMemory is how many bytes of memory the machine has.
func TotalMemory(root string) (int64, error) {
	content, err := os.ReadFile(filepath.Join(root, "meminfo")) // #nosec G304 -- of the proc filesystem
	if err != nil {
		return 0, fmt.Errorf("memory of the machine: %w", err)
	}
	var kib int64
	if _, err := fmt.Sscanf(string(content), "MemTotal: %d kB", &kib); err != nil {
		return 0, fmt.Errorf("memory of the machine: %w", err)
	}
	return kib << 10, nil
}
