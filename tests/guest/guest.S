# A whole guest in one boot sector, for tests that need a running machine whose memory can be checked afterwards.
#
# Assembled with --defsym MODE=n:
#   0  writer      adds one to the first byte of every 4 KiB page from 1 MiB to END, for ever. At any instant all these bytes are equal,
#                  but for one place where the value drops by one: that is how a test knows that RAM arrived whole.
#                  Says 'A' on COM1 at the start and 'B' after every 64 passes.
#   1  fill_idle   fills 1 MiB to END with words that do not repeat and are never zero (see word_at), says 'F', halts for ever.
#   2  fill_dirty  fills as above, says 'F', then rewrites RATE pages of the first WINDOW pages at each tick of a 100 Hz timer and
#                  sleeps in between; says 'T' every 256 ticks. Only the second word of a page changes.
#
#   3  disk_reader reads the second disk (BIOS, drive 0x81), 8 sectors at a time, into the READER_PAGES pages from READER_BASE, for ever:
#                  pass r fills page p from sector r * READER_STRIDE + 8 p. With a disk whose sectors tell their number, RAM shows which pass
#                  each page is of: all of one pass, but for one place where it drops by one. Says 'A', 'P' after every pass, 'E' on an error.
#   4  scatter     adds one to the first byte of every page from 1 MiB to END as the writer does, but page after page in an order that jumps
#                  about, for ever. Says 'A' at the start and 'B' after every pass.
#
# The three numbers are fields at the end of the sector (guest_image.py patches them), so one image serves every memory size.
# END may not pass 3 GiB: the machine has its PCI hole there. But for the disk reader, no BIOS service is used after the start, and no
# memory below 1 MiB but the sector itself, its stack, and the interrupt table at 0x6000.

.set BASE, 0x100000
.set PAGE, 0x1000
.set COM1, 0x3f8
.set STACK, 0x7000
.set TABLE, 0x6000      # interrupt descriptors; one is used
.set TICK_VECTOR, 0x20
.set READER_BASE, 0x10000
.set READER_PAGES, 64
.set READER_STRIDE, 1024        # sectors

.code16
.globl _start
_start:
    cli
    xor %ax, %ax
    mov %ax, %ds
.if MODE == 3
    mov %ax, %ss
    mov $STACK, %sp
    mov $'A', %al
    call say
read_pass:
    mov pass_sector, %eax
    mov %eax, sector
    movw $READER_BASE >> 4, segment
1:  mov $packet, %si
    mov $0x42, %ah              # extended read
    mov $0x81, %dl
    int $0x13
    jc 3f
    addl $8, sector
    addw $PAGE >> 4, segment
    cmpw $(READER_BASE >> 4) + READER_PAGES * (PAGE >> 4), segment
    jb 1b
    addl $READER_STRIDE, pass_sector
    mov $'P', %al
    call say
    jmp read_pass
3:  mov $'E', %al
    call say
4:  hlt
    jmp 4b
say:
    mov $COM1, %dx
    out %al, %dx
    ret
.balign 4
packet:  .byte 16, 0; .word 8, 0
segment: .word 0
sector:  .quad 0
pass_sector: .long 0
.else
    lgdtl gdt_pointer
    inb $0x92, %al          # A20
    or $2, %al
    and $0xfe, %al          # bit 0 would reset the machine
    outb %al, $0x92
    mov %cr0, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmp $8, $protected

.code32
protected:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $STACK, %esp
    mov end_mib, %ebp
    shl $20, %ebp           # ebp: END, in bytes, for good

.if MODE == 0
    mov $'A', %al
    call say
    xor %ebx, %ebx
pass:
    mov $BASE, %eax
1:  incb (%eax)
    add $PAGE, %eax
    cmp %ebp, %eax
    jb 1b
    inc %ebx
    test $0x3f, %bl
    jnz pass
    mov $'B', %al
    call say
    jmp pass
.elseif MODE == 4
    mov $'A', %al
    call say
    sub $BASE, %ebp
    shr $12, %ebp               # ebp: pages
    bsr %ebp, %ecx
    mov $2, %edi
    shl %cl, %edi               # edi: a power of two above that, so the step below meets every number once in a pass
    mov %edi, %esi
    dec %esi                    # esi: its mask
    xor %eax, %eax              # eax: the page
scatter_pass:
    mov %edi, %ecx
1:  imul $1664525, %eax, %eax
    add $1013904223, %eax
    and %esi, %eax
    cmp %ebp, %eax
    jae 2f
    mov %eax, %ebx
    shl $12, %ebx
    incb BASE(%ebx)
2:  loop 1b
    mov %eax, %ebx
    mov $'B', %al
    call say
    mov %ebx, %eax
    jmp scatter_pass
.else
    mov $BASE, %edi
1:  imul $0x9e3779b1, %edi, %eax    # word_at: address times an odd number, so no two are alike; the low bit makes it non-zero
    or $1, %eax
    stosl
    cmp %ebp, %edi
    jb 1b
    mov $'F', %al
    call say
.if MODE == 1
1:  hlt
    jmp 1b
.else
    # The timer at 100 Hz, on a vector that no exception has; every other interrupt masked.
    movl $(8 << 16), TABLE + TICK_VECTOR * 8
    movl $0x8e00, TABLE + TICK_VECTOR * 8 + 4
    movw $tick, TABLE + TICK_VECTOR * 8     # below 64 KiB: the high half is zero
    lidtl idt_pointer
    mov $0x11, %al
    out %al, $0x20
    mov $TICK_VECTOR, %al
    out %al, $0x21
    mov $4, %al
    out %al, $0x21
    mov $1, %al
    out %al, $0x21
    mov $0xfe, %al
    out %al, $0x21
    mov $0xff, %al
    out %al, $0xa1
    mov $0x34, %al
    out %al, $0x43
    mov $(11932 & 0xff), %al
    out %al, $0x40
    mov $(11932 >> 8), %al
    out %al, $0x40
    xor %esi, %esi          # esi: next page of the window
    xor %ebx, %ebx          # ebx: ticks
    sti
1:  hlt
    mov rate, %ecx
2:  mov %esi, %eax
    shl $12, %eax
    incl BASE + 4(%eax)
    inc %esi
    cmp window, %esi
    jb 3f
    xor %esi, %esi
3:  loop 2b
    inc %bl
    jnz 1b
    mov $'T', %al
    call say
    jmp 1b
tick:
    push %eax
    mov $0x20, %al
    out %al, $0x20
    pop %eax
    iret
idt_pointer:
    .word TICK_VECTOR * 8 + 7
    .long TABLE
.endif
.endif

say:                        # al: the character
    mov $COM1, %edx
    out %al, %dx
    ret

.balign 8
gdt:
    .quad 0
    .word 0xffff, 0; .byte 0, 0x9b, 0xcf, 0
    .word 0xffff, 0; .byte 0, 0x93, 0xcf, 0
gdt_pointer:
    .word 23
    .long gdt
.endif

.org 0x1e0
    .ascii "PFG1"           # what guest_image.py looks for
end_mib: .long 100          # MiB
window:  .long 16384        # pages
rate:    .long 256          # pages a tick
.org 0x1fe
    .byte 0x55, 0xaa
