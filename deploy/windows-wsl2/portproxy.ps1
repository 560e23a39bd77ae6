#Requires -Version 5.1
#Requires -RunAsAdministrator
<#
.SYNOPSIS
Without mirrored networking: passes the ports of a device on from Windows to WSL2. WSL2 has another address after each
start, so this runs before each start of the node.
.DESCRIPTION
Ray binds the node's address, and tells it to the others: it must be that of Windows. So WSL2 gets that address too, on
its loopback interface.
.PARAMETER Address
The address of Windows in the cluster's network.
.PARAMETER Remove
Takes the ports back.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)]
    [ValidatePattern('^[0-9]{1,3}(\.[0-9]{1,3}){3}$')]
    [string] $Address,

    [ValidatePattern('^[A-Za-z0-9._-]+$')]
    [string] $Distribution = 'Ubuntu',

    [switch] $Remove
)
$ErrorActionPreference = 'Stop'
$ports = @(6380, 6381, 6383) + @(20000..20099)  # not 6382: only the node itself calls it

if (-not $Remove) {
    $line = wsl.exe --distribution $Distribution --exec ip -4 -o address show dev eth0 | Out-String
    if ($line -notmatch 'inet ([0-9.]+)/') { throw "WSL2 has no address on eth0: $line" }
    $inside = $Matches[1]
    if ($inside -eq $Address) { throw 'WSL2 has the address of Windows already (mirrored): no port needs passing on.' }
    wsl.exe --distribution $Distribution --user root --exec ip address replace "$Address/32" dev lo
    if ($LASTEXITCODE -ne 0) { throw "WSL2 did not take the address $Address" }
}
foreach ($port in $ports) {
    if ($Remove) {
        netsh.exe interface portproxy delete v4tov4 listenaddress=$Address listenport=$port | Out-Null
        continue
    }
    netsh.exe interface portproxy set v4tov4 listenaddress=$Address listenport=$port connectaddress=$inside connectport=$port | Out-Null
    if ($LASTEXITCODE -ne 0) { throw "port $port cannot be passed on: netsh ended with code $LASTEXITCODE" }
}
